//! `/metrics`: who may read it, and whether the parser of another project reads what was meant.

use super::world::{Answer, CANARY, World, machine, task_input};
use axum::http::{StatusCode, header};
use domain::permission::Role;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HOSTILE: &str = "a \"quoted\" \\ name} 7";

async fn scrape(world: &World, authorization: Option<&str>) -> Answer {
    world.anonymous().get_with("/metrics", header::AUTHORIZATION, authorization).await
}

/// The token as the page shows it.
fn token_of(page: &str) -> String {
    let rest = page.split_once("id=\"metrics-token\">").expect("a token").1;
    rest.split_once('<').expect("its end").0.to_owned()
}

/// What the parser of `prometheus-client` makes of the text; its absence is a failure, not a reason to skip.
fn parsed(text: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let own = root.join(".tools/venv/bin/python");
    let mut reader = Command::new(if own.exists() { own } else { PathBuf::from("python3") })
        .arg(root.join("tests/peers/metrics_reader.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python is missing: run scripts/install.sh");
    reader.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success(), "the parser refuses it:\n{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sample<'a>(families: &'a Value, name: &str, label: &str, content: &str) -> &'a Value {
    let samples = families[name]["samples"].as_array().unwrap_or_else(|| panic!("no {name} in {families}"));
    let found = samples.iter().find(|sample| sample[0].get(label).is_some_and(|it| it == content));
    &found.unwrap_or_else(|| panic!("no {label}={content} in {samples:?}"))[1]
}

#[tokio::test]
async fn another_projects_parser_reads_what_was_meant() {
    let world = World::new().await;
    world.device(HOSTILE, vec![machine("web-01", &[]), machine("db-01", &[])]).await;
    world.device("esx-2", Vec::new()).await;
    let (web, repository) = (world.vm("web-01").await, world.repository("two\nlines").await);
    world.point(repository, web, "web-01", "2026-11-21T22:00:00Z").await;
    world.db().create_task(&task_input(HOSTILE, repository, vec![web])).await.unwrap();
    world.db().record_repository_usage(repository, Some(1000), Some(400), 600).await.unwrap();
    let page = world.administrator().await.post("/settings/metrics/token", &[]).await.ok();
    let answer = scrape(&world, Some(&format!("Bearer {}", token_of(&page)))).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.ok();
    assert!(!text.contains(CANARY), "no secret is a label");

    let families = parsed(&text);
    for (name, family) in families.as_object().unwrap() {
        assert!(name.starts_with("stillframe_") && family["type"] == "gauge", "{name}: {family}");
        assert!(family["help"].as_str().is_some_and(|help| help.ends_with('.')), "{name}: {family}");
    }
    for (name, value) in [
        ("stillframe_left_behind_changes", 0.0),
        ("stillframe_foreign_snapshots", 0.0),
        ("stillframe_devices", 2.0),
        ("stillframe_devices_unreachable", 0.0),
        ("stillframe_machines_unprotected", 1.0),
        ("stillframe_machines_missing_goal", 0.0),
    ] {
        assert_eq!(families[name]["samples"], serde_json::json!([[{}, value]]), "{name}");
    }
    for (name, label, content, value) in [
        ("stillframe_left_behind_device_changes", "device", HOSTILE, 0.0),
        ("stillframe_left_behind_device_changes", "device", "esx-2", 0.0),
        ("stillframe_last_success_timestamp_seconds", "task", HOSTILE, 0.0),
        ("stillframe_repository_used_bytes", "repository", "two\nlines", 600.0),
        ("stillframe_repository_free_bytes", "repository", "two\nlines", 400.0),
        ("stillframe_build_info", "version", "0.0.0", 1.0),
        ("stillframe_jobs", "kind", "backup", 0.0),
    ] {
        assert_eq!(sample(&families, name, label, content), value, "{name}");
    }
    assert_eq!(families["stillframe_jobs"]["samples"].as_array().unwrap().len(), 2 * domain::job::JobKind::ALL.len());
}

#[tokio::test]
async fn only_the_token_opens_it_and_it_is_shown_once() {
    let world = World::new().await;
    let mut administrator = world.administrator().await;
    let closed = async |authorization: Option<&str>| {
        let answer = scrape(&world, authorization).await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::UNAUTHORIZED, ""), "{authorization:?}");
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
    };
    // Before there is a token nothing opens it, an account's session neither.
    for authorization in [None, Some("Bearer "), Some("Bearer x"), Some("Basic eDp4"), Some("Bearer")] {
        closed(authorization).await;
    }
    assert_eq!(administrator.get("/metrics").await.status, StatusCode::UNAUTHORIZED);
    assert!(administrator.get("/settings").await.ok().contains("Make a token"));

    let first = token_of(&administrator.post("/settings/metrics/token", &[]).await.ok());
    let bearer = |token: &str| format!("Bearer {token}");
    assert_eq!(scrape(&world, Some(&bearer(&first))).await.status, StatusCode::OK);
    assert_eq!(scrape(&world, Some(&format!("bearer {first}"))).await.status, StatusCode::OK);
    let settings = administrator.get("/settings").await.ok();
    assert!(!settings.contains(&first) && settings.contains("Replace the token"), "{settings}");
    for wrong in [bearer(&format!("{first}x")), bearer(&first[1..]), first.clone(), format!("Token {first}")] {
        closed(Some(&wrong)).await;
    }
    let second = token_of(&administrator.post("/settings/metrics/token", &[]).await.ok());
    closed(Some(&bearer(&first))).await;
    assert_eq!(scrape(&world, Some(&bearer(&second))).await.status, StatusCode::OK);
    administrator.post("/settings/metrics/remove", &[]).await.went_to();
    closed(Some(&bearer(&second))).await;

    let kept: Option<Value> = world.db().setting("metrics_token").await.unwrap();
    assert_eq!(kept, Some(Value::Null));
    let actions: Vec<String> =
        world.db().audit_entries(None, 3).await.unwrap().into_iter().map(|entry| entry.action).collect();
    assert_eq!(actions, ["metrics.token_removed", "metrics.token_replaced", "metrics.token_made"]);
    let mut operator = world.client(Role::Operator).await;
    assert!(!operator.get("/settings").await.ok().contains("metrics/token"));
}
