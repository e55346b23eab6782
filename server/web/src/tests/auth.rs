//! Setup, sign-in, sessions.

use super::world::{CANARY, PASSWORD, SETUP_TOKEN, World};
use crate::auth::{self, tokens};
use axum::http::{StatusCode, header};
use db::NewSession;
use std::time::Duration;

const SETUP: [(&str, &str); 4] =
    [("setup_token", SETUP_TOKEN), ("user", "ada"), ("password", PASSWORD), ("password_again", PASSWORD)];

#[tokio::test]
async fn the_setup_token_makes_one_administrator_and_works_once() {
    let world = World::new().await;
    let mut client = world.anonymous();
    assert_eq!(client.get("/").await.went_to(), "/setup");
    assert_eq!(client.get("/login").await.went_to(), "/setup");
    let page = client.get("/setup").await.ok();
    assert!(page.contains("AB:AB:AB"), "shows the certificate to compare");

    let wrong = [("setup_token", "guess"), ("user", "ada"), ("password", PASSWORD), ("password_again", PASSWORD)];
    assert!(client.post("/setup", &wrong).await.again().contains("not valid"));
    let short = [("setup_token", SETUP_TOKEN), ("user", "ada"), ("password", "short"), ("password_again", "short")];
    let page = client.post("/setup", &short).await.again();
    assert!(page.contains("Too short: 5 of at least 12 characters."));

    assert_eq!(client.post("/setup", &SETUP).await.went_to(), "/");
    assert!(client.has_cookie("__Host-stillframe"));
    assert!(!client.has_cookie("__Host-stillframe-gate"));
    assert!(client.get("/").await.ok().contains("Three steps to the first backup"));

    let mut second = world.anonymous();
    assert_eq!(second.get("/setup").await.went_to(), "/login");
    second.get("/login").await.ok();
    assert_eq!(second.post("/setup", &SETUP).await.went_to(), "/login");
    assert_eq!(world.db().accounts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn signing_in_leads_on_and_out_again() {
    let world = World::new().await;
    let mut first = world.anonymous();
    first.get("/setup").await;
    first.post("/setup", &SETUP).await.went_to();

    let mut client = world.anonymous();
    assert_eq!(client.get("/devices").await.went_to(), "/login?next=%2Fdevices");
    client.get("/login?next=%2Fdevices").await.ok();
    let wrong = [("user", "ada"), ("password", "wrong password 1"), ("next", "/devices")];
    let page = client.post("/login", &wrong).await.again();
    assert!(page.contains("Name or password is wrong.") && page.contains("4 more attempts"), "{page}");
    assert!(!page.contains("wrong password 1"), "a password is never sent back");

    let right = [("user", "ADA"), ("password", PASSWORD), ("next", "/devices")];
    let answer = client.post("/login", &right).await;
    let cookie = answer.headers.get(header::SET_COOKIE).unwrap().to_str().unwrap().to_owned();
    assert!(cookie.starts_with("__Host-stillframe="), "{cookie}");
    assert!(cookie.contains("; HttpOnly; SameSite=Lax; Secure") && !cookie.contains("Domain"), "{cookie}");
    assert_eq!(answer.went_to(), "/devices");
    // The test's client knows the token of sessions it made itself only; take it from a page.
    let page = client.get("/devices").await.ok();
    let token = page.split(r#"name="form_token" value=""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
    let answer = client.post_from("/logout", &[], Some("https://sf.example"), &token).await;
    assert_eq!(answer.went_to(), "/login");
    assert_eq!(client.get("/devices").await.went_to(), "/login?next=%2Fdevices");
}

#[tokio::test]
async fn a_session_from_before_is_not_the_one_after_sign_in() {
    let world = World::new().await;
    let mut client = world.anonymous();
    client.get("/setup").await;
    let before = client.form_token();
    let answer = client.post("/setup", &SETUP).await;
    let line = answer.headers.get(header::SET_COOKIE).unwrap().to_str().unwrap();
    assert!(!line.contains(&before));
}

#[tokio::test]
async fn failed_sign_ins_lead_to_a_pause() {
    let world = World::new().await;
    world.administrator().await;
    let mut client = world.anonymous();
    client.get("/login").await.ok();
    let fields = [("user", "nobody"), ("password", "whatever it is")];
    for _ in 0..5 {
        client.post("/login", &fields).await.again();
    }
    let answer = client.post("/login", &fields).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = answer.headers.get(header::RETRY_AFTER).unwrap().to_str().unwrap().parse().unwrap();
    assert!((290..=300).contains(&wait), "{wait}");
    assert!(answer.body.contains("Too many failed attempts."));
}

#[tokio::test]
async fn sessions_end_when_idle_and_after_their_time() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    client.get("/devices").await.ok();
    let token = "of-an-expired-session";
    let account_id = world.db().accounts().await.unwrap()[0].account_id;
    let session =
        NewSession { token_sha256: tokens::hash(token), account_id, form_token: "f", absolute: Duration::ZERO };
    world.db().create_session(&session).await.unwrap();
    assert!(world.db().touch_session(tokens::hash(token), auth::SESSION_IDLE).await.unwrap().is_none());
    let fresh = tokens::hash("never seen");
    let session = NewSession { token_sha256: fresh, account_id, form_token: "f", absolute: auth::SESSION_ABSOLUTE };
    world.db().create_session(&session).await.unwrap();
    assert!(world.db().touch_session(fresh, Duration::ZERO).await.unwrap().is_none(), "idle for too long");
    assert!(world.db().touch_session(fresh, auth::SESSION_IDLE).await.unwrap().is_some());
}

#[tokio::test]
async fn a_changed_password_ends_every_session() {
    let world = World::new().await;
    let mut client = world.anonymous();
    client.get("/setup").await;
    client.post("/setup", &SETUP).await.went_to();
    let page = client.get("/settings/account").await.ok();
    let token = page.split(r#"name="form_token" value=""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
    let new = format!("{CANARY} new password");
    let own = Some("https://sf.example");
    let wrong = [("present", "not it at all"), ("password", new.as_str()), ("password_again", new.as_str())];
    let page = client.post_from("/settings/account/password", &wrong, own, &token).await.again();
    assert!(page.contains("not your present password") && !page.contains(CANARY));
    let right = [("present", PASSWORD), ("password", new.as_str()), ("password_again", new.as_str())];
    let answer = client.post_from("/settings/account/password", &right, own, &token).await;
    assert_eq!(answer.went_to(), "/login?said=password-changed");
    assert!(!client.has_cookie("__Host-stillframe"));
    client.get("/login").await.ok();
    assert_eq!(client.post("/login", &[("user", "ada"), ("password", &new)]).await.went_to(), "/");
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    for path in ["/", "/login", "/health", "/no/such/page", "/static/0/app.css"] {
        let answer = client.get(path).await;
        let header = |name: &str| answer.headers.get(name).map_or("", |value| value.to_str().unwrap());
        assert!(header("content-security-policy").contains("script-src 'self'"), "{path}");
        assert!(!header("content-security-policy").contains("unsafe"), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "same-origin", "{path}");
        assert!(!header("cache-control").is_empty(), "{path}");
    }
    assert_eq!(client.get("/").await.headers.get(header::CACHE_CONTROL).unwrap(), "no-store");
}

#[tokio::test]
async fn a_form_that_is_too_large_or_of_another_kind_is_refused() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let large = "x".repeat(auth::FORM_BYTES_MAX + 1);
    let answer = client.post("/tasks/new", &[("name", &large)]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer.body.contains("too much at once"));
}
