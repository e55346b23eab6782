//! What pages show and must never show.

use super::world::{CANARY, World, machine, task_input};
use axum::http::{StatusCode, header};
use db::TaskInput;
use domain::mode::Mode;
use domain::permission::Role;

const HOSTILE: &str = r#"<script>alert(1)</script>"><img src=x onerror=alert(2)>'{{7*7}}"#;

async fn full_world(name: &str) -> (World, Vec<String>) {
    let world = World::new().await;
    let device =
        world.device("esx-a", vec![machine(name, &[super::world::blocker(name)]), machine("web-01", &[])]).await;
    let repository = world.repository("nas").await;
    let (hostile, vm) = (world.vm(name).await, world.vm("web-01").await);
    let point = world.point(repository, hostile, name, "2026-11-21T22:00:00Z").await;
    let input = TaskInput { mode: Mode::ColdSnapshot, ..task_input(name, repository, vec![hostile, vm]) };
    let task = world.db().create_task(&input).await.unwrap();
    let db::Start::Started { run_id, .. } = world.db().start_run(task, name, None).await.unwrap() else {
        panic!("not started")
    };
    let mut client = world.administrator().await;
    let draft = client.post(&format!("/tasks/{task}/edit"), &[]).await.went_to();
    let steps = ["name", "machines", "location", "method", "schedule", "retention", "summary"];
    let restore = client.post(&format!("/restore/points/{point}"), &[]).await.went_to();
    client.post(&restore, &[("device", &device.to_string())]).await.went_to();
    let mut pages: Vec<String> = [
        "/",
        "/devices",
        "/devices/new",
        "/machines",
        "/tasks",
        "/tasks/new",
        "/activity",
        "/restore",
        "/storage",
        "/storage/new",
        "/left-behind",
        "/settings",
        "/settings/account",
        "/settings/audit",
        "/settings/notifications",
        "/settings/notifications/new?kind=mail",
        "/settings/notifications/new?kind=webhook",
    ]
    .map(str::to_owned)
    .to_vec();
    pages.extend(steps.map(|step| draft.replace("summary", step)));
    pages.extend([
        format!("/devices/{device}"),
        format!("/devices/{device}/edit"),
        format!("/devices/{device}/certificate"),
        format!("/machines/{hostile}"),
        format!("/tasks/{task}"),
        format!("/activity/{run_id}"),
        format!("/restore/machines/key%2F{hostile}"),
        format!("/restore/points/{point}"),
        restore.clone(),
        restore.replace("/host", "/target"),
        format!("/storage/{repository}"),
        format!("/storage/{repository}/limits"),
        "/search?q=web".to_owned(),
        "/search?q=%3Cscript%3E".to_owned(),
        "/machines?q=%22%3E%3Cscript%3E&sort=-size".to_owned(),
    ]);
    (world, pages)
}

#[tokio::test]
async fn a_hostile_name_is_text_everywhere_and_no_secret_is_on_any_page() {
    let (world, pages) = full_world(HOSTILE).await;
    let mut client = world.administrator().await;
    for path in pages {
        let body = client.get(&path).await.ok();
        assert!(!body.contains("<script>alert") && !body.contains("<img src=x"), "{path}");
        assert!(!body.contains("onerror=alert(2)>'{{7*7}}\""), "{path}");
        assert!(!body.contains("<script>\"") && !body.contains("><script>&"), "{path}");
        assert!(!body.contains(CANARY), "{path} shows a secret");
        assert!(!body.contains(" style=") && !body.contains("<style") && !body.contains(" onclick"), "{path}");
        assert_eq!(body.matches("<script").count(), body.matches("<script src=\"/static/").count(), "{path}");
    }
}

#[tokio::test]
async fn no_page_leads_nowhere() {
    let (world, pages) = full_world("db-01").await;
    let mut client = world.administrator().await;
    let mut seen: std::collections::BTreeSet<String> = pages.iter().cloned().collect();
    let mut queue: Vec<String> = pages;
    while let Some(path) = queue.pop() {
        let answer = client.get(&path).await;
        assert!(answer.status.is_success() || answer.status.is_redirection(), "{path}: {}", answer.status);
        for part in answer.body.split("href=\"").skip(1) {
            let link = part.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&");
            let link = link.split('#').next().unwrap().to_owned();
            assert!(link.is_empty() || link.starts_with('/'), "{path} links to {link}");
            if link.starts_with('/') && !link.starts_with("/static/") && seen.insert(link.clone()) {
                queue.push(link);
            }
        }
    }
    assert!(seen.len() > 40, "{}", seen.len());
}

#[tokio::test]
async fn lists_are_paged_filtered_and_sorted_by_their_address() {
    let world = World::new().await;
    let machines = (0..60).map(|number| machine(&format!("vm-{number:02}"), &[])).collect();
    world.device("esx-a", machines).await;
    let mut client = world.client(Role::Viewer).await;
    let page = client.get("/machines?sort=name&page=2").await.ok();
    assert!(page.contains("26 to 50 of 60") && page.contains("vm-25<") && !page.contains("vm-24<"), "{page}");
    let page = client.get("/machines?sort=-name").await.ok();
    assert!(page.contains("vm-59<") && !page.contains("vm-10<"));
    let page = client.get("/machines?q=vm-1").await.ok();
    assert!(page.contains("1 to 10 of 10"));
    let page = client.get("/machines?q=%25").await.ok();
    assert!(page.contains("No machine fits."), "a percent sign is a character");
    let page = client.get("/machines?state=protected").await.ok();
    assert!(page.contains("No machine fits."));
    for odd in ["page=0", "page=-1", "page=999999999999999999999", "sort=%27;drop", "device=x", "state=x"] {
        client.get(&format!("/machines?{odd}")).await.ok();
    }
}

#[tokio::test]
async fn a_viewer_sees_no_button_that_would_be_refused() {
    let (world, pages) = full_world("db-01").await;
    let mut client = world.client(Role::Viewer).await;
    for path in pages {
        let answer = client.get(&path).await;
        if answer.status == StatusCode::FORBIDDEN || answer.status == StatusCode::NOT_FOUND {
            continue;
        }
        for part in answer.ok().split("<form ").skip(1) {
            let form = part.split("</form>").next().unwrap();
            if !form.contains(r#"method="post""#) {
                continue;
            }
            let action = form.split("action=\"").nth(1).unwrap().split('"').next().unwrap();
            let own = ["/theme", "/logout", "/settings/account/password"].contains(&action);
            let hidden_bulk = action == "/machines" && !form.contains("<button");
            assert!(own || hidden_bulk, "{path} shows a viewer the form {action}");
        }
    }
}

#[tokio::test]
async fn unknown_pages_and_things_have_a_page_of_their_own() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    for path in ["/no/such/page", "/devices/4711", "/tasks/4711", "/activity/4711", "/restore/machines/none"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(answer.body.contains("This page does not exist"), "{path}");
    }
    let answer = client.post("/devices/4711/sync", &[]).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let answer = world.client(Role::Viewer).await.get("/devices/new").await;
    assert!(answer.body.contains("Your account may not do this"));
}

#[tokio::test]
async fn static_files_are_kept_for_ever_under_their_version_only() {
    let world = World::new().await;
    let mut client = world.anonymous();
    let page = client.get("/setup").await.ok();
    let sheet = page.split("href=\"").find(|part| part.contains("app.css")).unwrap().split('"').next().unwrap();
    let answer = client.get(sheet).await;
    assert!(answer.headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/css; charset=utf-8");
    let other = client.get("/static/0/app.css").await;
    assert_eq!(other.headers[header::CACHE_CONTROL], "no-cache");
    for path in ["/static/0/../Cargo.toml", "/static/0/vendor/README.md", "/static/0/%2e%2e/Cargo.toml"] {
        assert_eq!(client.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn the_theme_is_written_into_the_page() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    assert!(!client.get("/").await.ok().contains("data-bs-theme"));
    assert_eq!(client.post("/theme", &[("theme", "dark"), ("back", "/devices")]).await.went_to(), "/devices");
    assert!(client.get("/").await.ok().contains(r#"data-bs-theme="dark""#));
    assert_eq!(client.post("/theme", &[("theme", "light"), ("back", "//evil")]).await.went_to(), "/");
}
