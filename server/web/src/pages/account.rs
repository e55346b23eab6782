//! One's own account: password.

use super::devices::record;
use super::{form_again, page};
use crate::auth::{Session, password, tokens};
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Redirect};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

/// Wrong present passwords before a pause, and its window.
const FAILURES_MAX: u32 = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(300);

#[derive(Template)]
#[template(path = "settings/account.html")]
struct AccountPage {
    shell: Shell,
    problems: Problems,
}

/// `GET /settings/account`
pub async fn account(State(app): State<App>, session: Session) -> Result {
    let shell = Shell::new(&app, &session, Section::Settings, "Your account").await?;
    page(&AccountPage { shell, problems: Problems::default() })
}

/// `POST /settings/account/password`
pub async fn change_password(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let mut problems = Problems::default();
    let new = fields.secret("password");
    let subject = format!("password:{}", session.account_id);
    if app.db().login_failures(&subject, FAILURE_WINDOW).await?.count >= FAILURES_MAX {
        problems.add("present", "Too many wrong attempts. Wait 5 minutes.");
    } else if let Some(problem) = password::problem(&new) {
        problems.add("password", problem);
    } else if !tokens::same(new.expose_secret(), fields.raw("password_again")) {
        problems.add("password_again", "The two passwords differ.");
    }
    if problems.is_empty() {
        let (_, stored) = app.db().account_by_name(&session.name).await?.ok_or(Failure::NotFound)?;
        let stored = stored.expose_secret().to_owned();
        if password::fits(&app, fields.secret("present"), Some(stored)).await? {
            let hash = SecretString::from(password::hash(&app, new).await?);
            // This ends all sessions of the account, this one too.
            app.db().set_password(session.account_id, &hash).await?;
            record(&app, &session, "account.password_changed", &session.name, "").await?;
            let secure = app.given.secure;
            let mut response = Redirect::to("/login?said=password-changed").into_response();
            let line = tokens::expired_cookie_line(tokens::session_cookie(secure), secure);
            response.headers_mut().append(header::SET_COOKIE, line);
            return Ok(response);
        }
        app.db().record_login_failure(&subject).await?;
        problems.add("present", "This is not your present password.");
    }
    let shell = Shell::new(&app, &session, Section::Settings, "Your account").await?;
    form_again(&AccountPage { shell, problems })
}
