//! The workers' page, and the one request that a worker makes.

use super::world::{Answer, World};
use axum::http::StatusCode;
use db::{Presence, WorkerKind};
use domain::permission::Role;

fn server() -> Presence {
    Presence {
        name: "server-1".to_owned(),
        kind: WorkerKind::Server,
        tags: Vec::new(),
        also_untagged: false,
        host: "host-1".to_owned(),
        version: "0.0.0".to_owned(),
        process: 1,
        slots: 8,
        processors: 2,
    }
}

async fn enrol(world: &World, token: &str, name: &str) -> Answer {
    world.anonymous().post_json("/worker/enrol", token, &format!(r#"{{"name":"{name}"}}"#)).await
}

#[tokio::test]
async fn a_worker_is_added_drained_and_removed() {
    let world = World::new().await;
    let mut admin = world.administrator().await;
    let own = world.db().register_worker(&server()).await.unwrap();
    let page = admin.post("/workers", &[]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    let token = page.body.split("--token=").nth(1).unwrap().split(['<', ' ']).next().unwrap().to_owned();
    let (secret, pin) = token.split_once('.').expect("the certificate's fingerprint is in it");
    assert_eq!(pin, hex::encode(super::world::FINGERPRINT));

    assert_eq!(enrol(&world, "wrong", "b-1").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(enrol(&world, secret, "b/1").await.status, StatusCode::BAD_REQUEST);
    let given = enrol(&world, secret, "b-1").await;
    assert_eq!(given.status, StatusCode::OK, "{}", given.body);
    let enrolment = db::Enrolment::from_json(&given.body).unwrap();
    assert_eq!((enrolment.name.as_str(), enrolment.reach.port), ("b-1", 5433));
    let again = enrol(&world, secret, "b-2").await;
    assert!(again.status == StatusCode::UNAUTHORIZED && again.body.contains("works once"), "{}", again.body);

    let it = Presence { name: "b-1".to_owned(), kind: WorkerKind::Worker, ..server() };
    let worker = world.db().register_worker(&it).await.unwrap();
    let list = admin.get("/workers").await.body;
    assert!(list.contains("b-1") && list.contains("server-1") && list.contains("At work"), "{list}");
    admin.post(&format!("/workers/{worker}/drain"), &[]).await;
    assert!(admin.get("/workers").await.body.contains("Drained"));
    admin.post(&format!("/workers/{worker}/resume"), &[]).await;
    assert!(!admin.get("/workers").await.body.contains("Drained"));
    let page = admin.post(&format!("/workers/{worker}/replace"), &[]).await.ok();
    let secret = page.split("--token=").nth(1).unwrap().split('.').next().unwrap().to_owned();
    let newer = enrol(&world, &secret, "whatever").await.ok();
    let newer = db::Enrolment::from_json(&newer).unwrap();
    assert!(newer.name == "b-1" && newer.account != enrolment.account, "it takes the other's place");
    let refused = admin.post(&format!("/workers/{own}/remove"), &[]).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "a server at work stays");
    admin.post(&format!("/workers/{worker}/remove"), &[]).await;
    assert!(!admin.get("/workers").await.body.contains("b-1"));
    let viewer = world.client(Role::Viewer).await.get("/workers").await;
    assert!(viewer.status == StatusCode::OK && !viewer.body.contains("Add a worker"), "{}", viewer.body);
}

#[tokio::test]
async fn a_folder_says_who_sees_it_and_a_device_who_works_on_it() {
    let world = World::new().await;
    let mut admin = world.administrator().await;
    let own = world.db().register_worker(&server()).await.unwrap();
    let other = world.db().register_worker(&Presence { name: "server-2".to_owned(), ..server() }).await.unwrap();
    let location = world.repository("cellar").await;
    let page = format!("/storage/{location}/limits");
    assert_eq!(admin.get(&page).await.body.matches(" checked").count(), 2, "the servers do");
    let ids = (own.to_string(), other.to_string());
    let none = admin.post(&page, &[("jobs", "8"), ("speed", "")]).await;
    assert_eq!(none.status, StatusCode::UNPROCESSABLE_ENTITY);
    admin.post(&page, &[("jobs", "8"), ("speed", ""), ("seen_by", &ids.0)]).await;
    assert_eq!(world.db().repository_seen_by(location).await.unwrap(), [own]);
    admin.post(&page, &[("jobs", "8"), ("speed", ""), ("seen_by", &ids.0), ("seen_by", &ids.1)]).await;
    assert!(world.db().repository_seen_by(location).await.unwrap().is_empty(), "all servers: also those to come");
}
