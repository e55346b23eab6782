//! Accounts, sessions, throttling, audit, settings, drafts.

use crate::testing::database;
use crate::{Audit, Conflict, DraftKind, Error, NewSession, Theme};
use domain::permission::Role;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn hash(text: &str) -> SecretString {
    SecretString::from(text)
}

#[tokio::test]
async fn the_setup_token_makes_one_administrator() {
    let db = database().await;
    assert!(db.needs_setup().await.unwrap());
    assert!(db.set_setup_token([1; 32]).await.unwrap());
    assert!(db.set_setup_token([2; 32]).await.unwrap(), "a new start gives a new token");
    let old = db.create_first_administrator([1; 32], "admin", &hash("h")).await;
    assert!(matches!(old, Err(Error::SetupToken)));
    let account_id = db.create_first_administrator([2; 32], "admin", &hash("h")).await.unwrap();
    assert_eq!(db.account(account_id).await.unwrap().role, Role::Administrator);
    let again = db.create_first_administrator([2; 32], "other", &hash("h")).await;
    assert!(matches!(again, Err(Error::Conflict(Conflict::AlreadySetUp))));
    assert!(!db.needs_setup().await.unwrap());
    assert!(!db.set_setup_token([3; 32]).await.unwrap());
}

#[tokio::test]
async fn two_browsers_with_the_setup_token_make_one_administrator() {
    let db = database().await;
    db.set_setup_token([1; 32]).await.unwrap();
    let (hash_one, hash_two) = (hash("1"), hash("2"));
    let (one, two) = tokio::join!(
        db.create_first_administrator([1; 32], "one", &hash_one),
        db.create_first_administrator([1; 32], "two", &hash_two),
    );
    assert!(one.is_ok() != two.is_ok());
    assert_eq!(db.accounts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn accounts_are_found_without_case_and_are_unique_so() {
    let db = database().await;
    let account_id = db.create_account("Anna", Role::Operator, &hash("first")).await.unwrap();
    let twice = db.create_account("anna", Role::Viewer, &hash("h")).await;
    assert!(matches!(twice, Err(Error::Conflict(Conflict::AccountName))));
    let (account, password) = db.account_by_name("ANNA").await.unwrap().unwrap();
    assert_eq!((account.account_id, password.expose_secret()), (account_id, "first"));
    db.set_theme(account_id, Theme::Dark).await.unwrap();
    assert_eq!(db.account(account_id).await.unwrap().theme, Theme::Dark);
    assert!(db.account_by_name("nobody").await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_ends_idle_at_its_limit_with_its_password_and_by_hand() {
    let db = database().await;
    let account_id = db.create_account("anna", Role::Viewer, &hash("h")).await.unwrap();
    let begin = |token: u8, absolute| {
        let session = NewSession { token_sha256: [token; 32], account_id, form_token: "form", absolute };
        let db = &db;
        async move { db.create_session(&session).await.unwrap() }
    };
    begin(1, HOUR).await;
    assert_eq!(db.touch_session([1; 32], HOUR).await.unwrap().unwrap().form_token, "form");
    assert!(db.touch_session([9; 32], HOUR).await.unwrap().is_none());
    db.execute("update session set last_seen_at = now() - interval '50 min'").await;
    assert!(db.touch_session([1; 32], HOUR / 2).await.unwrap().is_none(), "idle for too long");
    assert!(db.touch_session([1; 32], HOUR).await.unwrap().is_some());
    assert!(db.touch_session([1; 32], HOUR / 2).await.unwrap().is_some(), "it was seen just now");
    begin(2, Duration::ZERO).await;
    assert!(db.touch_session([2; 32], HOUR).await.unwrap().is_none(), "past its absolute end");
    assert_eq!(db.purge_sessions(HOUR).await.unwrap(), 1);
    db.delete_session([1; 32]).await.unwrap();
    assert!(db.touch_session([1; 32], HOUR).await.unwrap().is_none());
    begin(3, HOUR).await;
    db.set_password(account_id, &hash("new")).await.unwrap();
    assert!(db.touch_session([3; 32], HOUR).await.unwrap().is_none(), "a new password ends all sessions");
    begin(4, HOUR).await;
    db.execute("update account set disabled = true").await;
    assert!(db.touch_session([4; 32], HOUR).await.unwrap().is_none(), "disabled accounts have none");
    db.delete_sessions_of(account_id).await.unwrap();
}

#[tokio::test]
async fn failures_are_counted_within_the_window() {
    let db = database().await;
    assert_eq!(db.login_failures("name:anna", HOUR).await.unwrap().count, 0);
    for _ in 0..3 {
        db.record_login_failure("name:anna").await.unwrap();
    }
    db.execute("update login_failure set failed_at = now() - interval '2 h' where ctid = '(0,1)'").await;
    let failures = db.login_failures("name:anna", HOUR).await.unwrap();
    assert_eq!(failures.count, 2);
    assert!(failures.since_last.unwrap() < HOUR);
    db.clear_login_failures("name:anna").await.unwrap();
    assert_eq!(db.login_failures("name:anna", HOUR).await.unwrap().count, 0);
}

#[tokio::test]
async fn the_audit_log_is_paged_from_its_end() {
    let db = database().await;
    for action in ["one", "two", "three"] {
        let entry = Audit { account_id: None, actor: "server", action, subject: "s", detail: "" };
        db.audit(&entry).await.unwrap();
    }
    let page = db.audit_entries(None, 2).await.unwrap();
    assert_eq!(page.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(), ["three", "two"]);
    let rest = db.audit_entries(page.last().map(|entry| entry.audit_id), 2).await.unwrap();
    assert_eq!(rest.len(), 1);
}

#[tokio::test]
async fn settings_are_set_and_replaced() {
    let db = database().await;
    assert_eq!(db.setting::<u32>("limit").await.unwrap(), None);
    db.set_setting("limit", &3).await.unwrap();
    db.set_setting("limit", &4).await.unwrap();
    assert_eq!(db.setting::<u32>("limit").await.unwrap(), Some(4));
}

#[tokio::test]
async fn a_draft_belongs_to_its_account() {
    let db = database().await;
    let anna = db.create_account("anna", Role::Operator, &hash("h")).await.unwrap();
    let bela = db.create_account("bela", Role::Operator, &hash("h")).await.unwrap();
    let draft_id = db.create_draft(anna, DraftKind::Task, &json!({ "name": "n" })).await.unwrap();
    assert!(matches!(db.draft(draft_id, bela).await, Err(Error::NotFound { .. })));
    assert!(matches!(db.update_draft(draft_id, bela, &json!({})).await, Err(Error::NotFound { .. })));
    db.update_draft(draft_id, anna, &json!({ "name": "m" })).await.unwrap();
    assert_eq!(db.draft(draft_id, anna).await.unwrap().data, json!({ "name": "m" }));
    db.execute("update wizard_draft set updated_at = now() - interval '8 days'").await;
    db.create_draft(bela, DraftKind::Restore, &json!({})).await.unwrap();
    assert!(db.draft(draft_id, anna).await.is_err(), "left behind for too long");
    db.delete_draft(draft_id, anna).await.unwrap();
}
