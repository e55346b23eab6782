//! The pages of notifications and goals.

use super::world::{CANARY, World, machine, task_input};
use axum::http::StatusCode;
use domain::job::JobError;
use domain::notice::{ChannelConfig, MailSecurity, NoticeKind, Tell};
use domain::permission::Role;

const MAIL: [(&str, &str); 12] = [
    ("kind", "mail"),
    ("name", "Operations"),
    ("host", "mail.example.org"),
    ("security", "starttls"),
    ("account", "backup"),
    ("secret", "canary-7f3a91-mail"),
    ("from", "backup@example.org"),
    ("to", "a@example.org\r\nb@example.org"),
    ("tell_backup_succeeded", "never"),
    ("hourly_max", "5"),
    ("enabled", "yes"),
    ("digest_zone", "UTC"),
];

fn with<'a>(fields: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = fields.iter().filter(|(name, _)| !changes.iter().any(|(other, _)| other == name));
    kept.chain(changes).copied().collect()
}

#[tokio::test]
async fn a_mail_channel_is_added_changed_tested_and_removed() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    assert!(client.get("/settings").await.ok().contains("/settings/notifications"));
    assert!(client.get("/settings/notifications").await.ok().contains("Nobody is told yet"));
    client.get("/settings/notifications/new?kind=mail").await.ok();
    let after = client.post("/settings/notifications/new", &MAIL).await.went_to();
    let page = client.get(&after).await.ok();
    assert!(page.contains("Operations") && page.contains("a@example.org and 1 more, by mail.example.org"), "{page}");
    let channel = world.db().channels().await.unwrap().remove(0);
    assert_eq!((channel.hourly_max, channel.digest.is_none()), (5, true));
    assert_eq!(channel.rules.of(NoticeKind::BackupSucceeded), Tell::Never);
    let ChannelConfig::Mail { port: 587, security: MailSecurity::Starttls, to, .. } = &channel.config else {
        panic!("{channel:?}")
    };
    assert_eq!(to, &["a@example.org", "b@example.org"]);

    let path = format!("/settings/notifications/{}", channel.channel_id);
    let form = client.get(&path).await.ok();
    assert!(!form.contains(CANARY) && form.contains("Empty keeps the stored one"), "a secret is never shown again");
    let digest = [("secret", ""), ("digest", "yes"), ("digest_at", "06:30"), ("name", "Ops")];
    client.post(&path, &with(&MAIL, &digest)).await.went_to();
    let changed = world.db().channel(channel.channel_id).await.unwrap();
    assert!(changed.has_secret && changed.next_digest_at.is_some());
    assert_eq!(changed.name, "Ops");

    let tested = client.post(&format!("{path}/test"), &[]).await.ok();
    assert!(tested.contains("250 OK queued as 7"), "{tested}");
    *world.doubles.refuse.lock() = Some(JobError::fail("notice.not_delivered", "It did not.", "535 <no>.", "Look."));
    let tested = client.post(&format!("{path}/test"), &[]).await.ok();
    assert!(tested.contains("The test failed") && tested.contains("535 &lt;no&gt;"), "{tested}");

    client.post(&format!("{path}/remove"), &[]).await.went_to();
    assert!(world.db().channels().await.unwrap().is_empty());
    let audit = client.get("/settings/audit").await.ok();
    for action in ["channel.created", "channel.changed", "channel.tested", "channel.removed"] {
        assert!(audit.contains(action), "{action}");
    }
    assert!(!audit.contains(CANARY));
}

#[tokio::test]
async fn a_kept_password_goes_to_no_other_server() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    client.post("/settings/notifications/new", &MAIL).await.went_to();
    let id = world.db().channels().await.unwrap()[0].channel_id;
    let path = format!("/settings/notifications/{id}");
    for change in [("host", "evil.example"), ("account", "root"), ("port", "2525"), ("security", "tls")] {
        let page = client.post(&path, &with(&MAIL, &[("secret", ""), change])).await.again();
        assert!(page.contains("Type the password again"), "{change:?}");
    }
    client.post(&path, &with(&MAIL, &[("secret", ""), ("account", "")])).await.went_to();
    assert!(!world.db().channel(id).await.unwrap().has_secret, "without an account no password is kept");
    let page = client.post(&path, &with(&MAIL, &[("secret", "x"), ("security", "plain")])).await.again();
    assert!(page.contains("No password is sent over a connection that is not encrypted"), "{page}");
    assert!(!page.contains("value=\"x\""));
}

#[tokio::test]
async fn a_webhook_without_tls_needs_a_confirmation() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let fields = [
        ("kind", "webhook"),
        ("name", "Chat"),
        ("url", "http://chat.example/hook/secret-path"),
        ("secret", "canary-7f3a91-signing-key"),
        ("hourly_max", "20"),
        ("enabled", "yes"),
    ];
    client.get("/settings/notifications/new?kind=webhook").await.ok();
    let page = client.post("/settings/notifications/new", &fields).await.again();
    assert!(page.contains("This address is not encrypted") && !page.contains(CANARY), "{page}");
    client.post("/settings/notifications/new", &with(&fields, &[("plain_confirmed", "yes")])).await.went_to();
    let page = client.get("/settings/notifications").await.ok();
    assert!(page.contains("http://chat.example") && !page.contains("secret-path"), "{page}");
    let again = client.post("/settings/notifications/new", &with(&fields, &[("plain_confirmed", "yes")])).await.again();
    assert!(again.contains("Another channel has this name."));
}

#[tokio::test]
async fn thresholds_are_checked_and_kept() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let path = "/settings/notifications/limits";
    let good = [("missed_grace_minutes", "45"), ("device_minutes", "60"), ("space_percent", "15")];
    client.post(path, &good).await.went_to();
    let limits = world.db().notice_limits().await.unwrap();
    assert_eq!((limits.missed_grace_minutes, limits.device_minutes, limits.space_percent), (45, 60, 15));
    let page = client.post(path, &with(&good, &[("space_percent", "91")])).await.again();
    assert!(page.contains("A number from 1 to 90."), "{page}");
    let mut viewer = world.client(Role::Viewer).await;
    assert_eq!(viewer.get("/settings/notifications").await.status, StatusCode::FORBIDDEN);
    assert!(!viewer.get("/settings").await.ok().contains("/settings/notifications"));
}

#[tokio::test]
async fn a_goal_is_suggested_set_shown_and_overridden() {
    let world = World::new().await;
    world.device("esx-a", vec![machine("web-01", &[])]).await;
    let repository = world.repository("nas").await;
    let vm = world.vm("web-01").await;
    let input = task_input("Nightly", repository, vec![vm]);
    let task = world.db().create_task(&input).await.unwrap();
    world.point(repository, vm, "web-01", "2026-11-21T22:00:00Z").await;
    let mut client = world.administrator().await;
    let summary = client.post(&format!("/tasks/{task}/edit"), &[]).await.went_to();
    let page = client.get(&summary).await.ok();
    assert!(page.contains("30 hours suits this schedule"), "{page}");
    assert!(page.contains(r#"<option value="none" selected>"#), "what the task has stays chosen");
    client.post(&summary, &[("do", "create"), ("goal", "1800")]).await.went_to();
    assert_eq!(world.db().task(task).await.unwrap().goal_minutes, Some(1800));
    assert!(client.get(&format!("/tasks/{task}")).await.ok().contains("30 hours at most"));

    let list = client.get("/machines").await.ok();
    assert!(list.contains("Goal of 30 hours missed"), "the point is of long ago: {list}");
    let page = client.get(&format!("/machines/{vm}")).await.ok();
    assert!(page.contains("The goal of 30 hours is missed.") && page.contains("As its tasks say"), "{page}");
    let home = client.get("/").await.ok();
    assert!(home.contains("web-01 misses its goal") && home.contains("1 of 1 with a goal miss it"), "{home}");

    client.post(&format!("/machines/{vm}/goal"), &[("goal", "none")]).await.went_to();
    assert!(!client.get("/machines").await.ok().contains("Goal of"));
    assert!(!client.get("/").await.ok().contains("misses its goal"));
    let refused = client.post(&format!("/machines/{vm}/goal"), &[("goal", "99999999")]).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    client.post(&format!("/machines/{vm}/goal"), &[("goal", "tasks")]).await.went_to();
    assert!(client.get("/machines").await.ok().contains("Goal of 30 hours missed"));
}

#[tokio::test]
async fn a_new_task_takes_the_goal_that_suits_its_schedule() {
    let world = World::new().await;
    world.device("esx-a", vec![machine("web-01", &[])]).await;
    let repository = world.repository("nas").await.to_string();
    let vm = world.vm("web-01").await.to_string();
    let mut client = world.administrator().await;
    let mut at = client.post("/tasks/new", &[("name", "Nightly")]).await.went_to();
    let steps: [&[(&str, &str)]; 5] = [
        &[("vm", &vm)],
        &[("repository", &repository)],
        &[("method", "incremental"), ("full_every", "0"), ("mode", "hot")],
        &[("repeat", "daily"), ("at", "22:00"), ("time_zone", "UTC")],
        &[("keep", "3")],
    ];
    for fields in steps {
        at = client.post(&at, fields).await.went_to();
    }
    assert!(client.get(&at).await.ok().contains(r#"<option value="1800" selected>"#));
    client.post(&at, &[("do", "create")]).await.went_to();
    assert_eq!(world.db().tasks().await.unwrap()[0].goal_minutes, Some(1800));
}
