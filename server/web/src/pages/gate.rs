//! Setup, sign-in, sign-out, theme.

use super::{form_again, go, page};
use crate::auth::{SESSION_ABSOLUTE, Session, password, tokens};
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::shell::{Gate, THEME_COOKIE, theme_of};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use db::{Audit, NewSession};
use secrecy::{ExposeSecret, SecretString};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest name of an account.
const NAME_LENGTH_MAX_CHARS: usize = 100;
/// Failed sign-ins of one name, or of one address, before a pause.
const FAILURES_OF_NAME_MAX: u32 = 5;
const FAILURES_OF_ADDRESS_MAX: u32 = 20;
/// Length of that pause, and the window in which failures count.
const FAILURE_WINDOW: Duration = Duration::from_secs(300);

/// The other end's address, if the server gave it.
pub struct Peer(Option<SocketAddr>);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0)))
    }
}

#[derive(Template)]
#[template(path = "setup.html")]
struct SetupPage {
    shell: Gate,
    user: String,
    problems: Problems,
    fingerprint: Option<String>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    shell: Gate,
    user: String,
    next: String,
    said: Option<&'static str>,
    problem: Option<(&'static str, String)>,
}

/// A form before sign-in is tied to its browser by a cookie with the same token.
fn gate(app: &App, headers: &HeaderMap, title: &str) -> Result<(Gate, Option<HeaderValue>)> {
    let name = tokens::gate_cookie(app.given.secure);
    if let Some(token) = tokens::cookie(headers, name).filter(|token| token.len() >= 40) {
        return Ok((Gate::with_form(app, title, theme_of(headers), token.to_owned()), None));
    }
    let token = tokens::random()?;
    let line = tokens::cookie_line(name, &token, app.given.secure);
    Ok((Gate::with_form(app, title, theme_of(headers), token), Some(line)))
}

fn with_cookie(mut response: Response, line: Option<HeaderValue>) -> Response {
    if let Some(line) = line {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    response
}

/// `GET /setup`
pub async fn setup(State(app): State<App>, headers: HeaderMap) -> Result {
    if app.is_set_up().await? {
        return go("/login");
    }
    let (shell, line) = gate(&app, &headers, "First start")?;
    let fingerprint = app.given.certificate_sha256.map(ui::fingerprint);
    let template = SetupPage { shell, user: String::new(), problems: Problems::default(), fingerprint };
    Ok(with_cookie(page(&template)?, line))
}

/// `POST /setup`
pub async fn set_up(State(app): State<App>, headers: HeaderMap, peer: Peer, fields: Fields) -> Result {
    if app.is_set_up().await? {
        return go("/login");
    }
    let subject = address_subject(&peer);
    let mut problems = Problems::default();
    let user = fields.get("user").to_owned();
    let password = fields.secret("password");
    problems.require("user", &user, NAME_LENGTH_MAX_CHARS, "Your name");
    if let Some(problem) = password::problem(&password) {
        problems.add("password", problem);
    } else if !tokens::same(password.expose_secret(), fields.raw("password_again")) {
        problems.add("password_again", "The two passwords differ.");
    }
    if app.db().login_failures(&subject, FAILURE_WINDOW).await?.count >= FAILURES_OF_ADDRESS_MAX {
        problems.add("setup_token", "Too many attempts from this address. Wait 5 minutes.");
    }
    if problems.is_empty() {
        let hash = SecretString::from(password::hash(&app, password).await?);
        let token = tokens::hash(fields.get("setup_token"));
        match app.db().create_first_administrator(token, &user, &hash).await {
            Ok(account_id) => {
                app.set_up.store(true, Ordering::Relaxed);
                record(&app, account_id, &user, "account.first_administrator").await?;
                return start_session(&app, account_id, "/").await;
            }
            Err(db::Error::SetupToken) => {
                app.db().record_login_failure(&subject).await?;
                problems
                    .add("setup_token", "This token is not valid. It is printed at the server’s start and works once.");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let (shell, line) = gate(&app, &headers, "First start")?;
    let fingerprint = app.given.certificate_sha256.map(ui::fingerprint);
    Ok(with_cookie(form_again(&SetupPage { shell, user, problems, fingerprint })?, line))
}

/// `GET /login`
pub async fn login(State(app): State<App>, headers: HeaderMap, fields: Fields, session: MaybeSession) -> Result {
    if session.0.is_some() {
        return go("/");
    }
    if !app.is_set_up().await? {
        return go("/setup");
    }
    let (shell, line) = gate(&app, &headers, "Sign in")?;
    let said = (fields.get("said") == "password-changed").then_some("The password is changed. Sign in with it.");
    let template =
        LoginPage { shell, user: String::new(), next: own_path(fields.get("next")).to_owned(), said, problem: None };
    Ok(with_cookie(page(&template)?, line))
}

/// `POST /login`
pub async fn sign_in(State(app): State<App>, headers: HeaderMap, peer: Peer, fields: Fields) -> Result {
    let user: String = fields.get("user").chars().take(NAME_LENGTH_MAX_CHARS).collect();
    let next = own_path(fields.get("next")).to_owned();
    let subjects = [
        (format!("name:{}", user.to_lowercase()), FAILURES_OF_NAME_MAX),
        (address_subject(&peer), FAILURES_OF_ADDRESS_MAX),
    ];
    let mut left = u32::MAX;
    for (subject, limit) in &subjects {
        let failures = app.db().login_failures(subject, FAILURE_WINDOW).await?;
        if failures.count >= *limit {
            let passed = failures.since_last.unwrap_or_default();
            let wait = FAILURE_WINDOW.saturating_sub(passed).as_secs().max(1);
            return refuse(&app, &headers, user, next, Refusal::Throttled(wait));
        }
        left = left.min(limit - failures.count - 1);
    }
    let found = app.db().account_by_name(&user).await?;
    let stored = found.as_ref().map(|(_, hash)| hash.expose_secret().to_owned());
    let fits = password::fits(&app, fields.secret("password"), stored).await?;
    let Some((account, _)) = found.filter(|(account, _)| fits && !account.disabled) else {
        for (subject, _) in &subjects {
            app.db().record_login_failure(subject).await?;
        }
        return refuse(&app, &headers, user, next, Refusal::Wrong(left));
    };
    app.db().clear_login_failures(&subjects[0].0).await?;
    record(&app, account.account_id, &account.name, "account.signed_in").await?;
    start_session(&app, account.account_id, if next.is_empty() { "/" } else { &next }).await
}

enum Refusal {
    Wrong(u32),
    Throttled(u64),
}

fn refuse(app: &App, headers: &HeaderMap, user: String, next: String, refusal: Refusal) -> Result {
    let (shell, line) = gate(app, headers, "Sign in")?;
    let (status, title, text) = match &refusal {
        Refusal::Wrong(0) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "Name or password is wrong.", "A pause of 5 minutes follows.".to_owned())
        }
        Refusal::Wrong(left) => {
            let attempts = crate::format::count(u64::from(*left), "more attempt", "more attempts");
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                "Name or password is wrong.",
                format!("{attempts}, then a pause of 5 minutes."),
            )
        }
        Refusal::Throttled(wait) => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many failed attempts.",
            format!("Try again in {}.", crate::format::duration(*wait)),
        ),
    };
    let template = LoginPage { shell, user, next, said: None, problem: Some((title, text)) };
    let mut response = page(&template)?;
    *response.status_mut() = status;
    if let Refusal::Throttled(wait) = refusal {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    }
    Ok(with_cookie(response, line))
}

/// A session of its own for every sign-in; whatever cookie was there before means nothing.
async fn start_session(app: &App, account_id: db::AccountId, next: &str) -> Result {
    let (token, form_token) = (tokens::random()?, tokens::random()?);
    app.db()
        .create_session(&NewSession {
            token_sha256: tokens::hash(&token),
            account_id,
            form_token: &form_token,
            absolute: SESSION_ABSOLUTE,
        })
        .await?;
    app.db().purge_sessions(crate::auth::SESSION_IDLE).await?;
    let secure = app.given.secure;
    let mut response = Redirect::to(next).into_response();
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, tokens::cookie_line(tokens::session_cookie(secure), &token, secure));
    headers.append(header::SET_COOKIE, tokens::expired_cookie_line(tokens::gate_cookie(secure), secure));
    Ok(response)
}

/// `POST /logout`
pub async fn log_out(State(app): State<App>, session: Session) -> Result {
    app.db().delete_session(session.token_hash).await?;
    let secure = app.given.secure;
    let line = tokens::expired_cookie_line(tokens::session_cookie(secure), secure);
    Ok(with_cookie(Redirect::to("/login").into_response(), Some(line)))
}

/// `POST /theme`
pub async fn theme(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let (word, theme) = match fields.get("theme") {
        "light" => ("light", db::Theme::Light),
        "dark" => ("dark", db::Theme::Dark),
        "auto" => ("auto", db::Theme::Auto),
        _ => return Err(Failure::Refused("There is no such appearance.".to_owned())),
    };
    app.db().set_theme(session.account_id, theme).await?;
    let back = own_path(fields.get("back"));
    let secure = if app.given.secure { "; Secure" } else { "" };
    let line = format!("{THEME_COOKIE}={word}; Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000{secure}");
    let response = Redirect::to(if back.is_empty() { "/" } else { back }).into_response();
    Ok(with_cookie(response, HeaderValue::from_str(&line).ok()))
}

/// The session of a public page, if there is one.
pub struct MaybeSession(Option<Session>);

impl<S: Sync> FromRequestParts<S> for MaybeSession {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Session>().cloned()))
    }
}

/// A path of this server, or nothing: never an address of another one.
fn own_path(path: &str) -> &str {
    let plain = path.starts_with('/')
        && !path.starts_with("//")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if plain { path } else { "" }
}

fn address_subject(peer: &Peer) -> String {
    match peer.0 {
        Some(address) => format!("address:{}", address.ip().to_canonical()),
        None => "address:unknown".to_owned(),
    }
}

async fn record(app: &App, account_id: db::AccountId, actor: &str, action: &str) -> Result<()> {
    let entry = Audit { account_id: Some(account_id), actor, action, subject: actor, detail: "" };
    Ok(app.db().audit(&entry).await?)
}

#[cfg(test)]
mod tests {
    use super::own_path;

    #[test]
    fn after_sign_in_one_stays_on_this_server() {
        assert_eq!(own_path("/devices/3"), "/devices/3");
        for other in ["https://evil.example", "//evil.example", "/\\evil.example", "", "javascript:1", "/a\nb"] {
            assert_eq!(own_path(other), "", "{other}");
        }
    }
}
