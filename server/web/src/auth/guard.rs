//! Stands before every route: session, role, origin, form token.

use super::{Session, origin, tokens};
use crate::failure::Failure;
use crate::form::Fields;
use crate::shell::{said_of, theme_of};
use crate::state::App;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use domain::permission::Permission;
use std::sync::atomic::Ordering;

/// Largest form: a task of ten thousand machines.
pub const FORM_BYTES_MAX: usize = 512 * 1024;

/// Lets a request through that has what `permission` needs.
pub async fn guard(State((app, permission)): State<(App, Permission)>, mut request: Request, next: Next) -> Response {
    if permission == Permission::Token {
        // Cookies count for nothing here, so that no page elsewhere can make a browser ask.
        return next.run(request).await;
    }
    let session = match session_of(&app, request.headers(), request.uri()).await {
        Ok(session) => session,
        Err(failure) => return failure.into_response(),
    };
    let expected = match (&session, permission) {
        (Some(session), _) if session.role.allows(permission) => Some(session.form_token.clone()),
        (_, Permission::Public) => {
            let name = tokens::gate_cookie(app.given.secure);
            tokens::cookie(request.headers(), name).map(str::to_owned)
        }
        (Some(_), _) => return Failure::Forbidden.into_response(),
        (None, _) => return sign_in_first(&app, request.method(), request.uri()).await,
    };
    if let Some(session) = session {
        request.extensions_mut().insert(session);
    }
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return next.run(request).await;
    }
    match with_form(&app, request, expected.as_deref()).await {
        Ok(request) => next.run(request).await,
        Err(response) => response,
    }
}

async fn session_of(app: &App, headers: &HeaderMap, uri: &Uri) -> Result<Option<Session>, Failure> {
    let name = tokens::session_cookie(app.given.secure);
    let Some(token) = tokens::cookie(headers, name) else { return Ok(None) };
    let token_hash = tokens::hash(token);
    let Some(found) = app.db().touch_session(token_hash, super::SESSION_IDLE).await? else { return Ok(None) };
    Ok(Some(Session {
        account_id: found.account.account_id,
        name: found.account.name,
        role: found.account.role,
        token_hash,
        form_token: found.form_token,
        theme: theme_of(headers),
        path: uri.path().to_owned(),
        said: said_of(uri),
    }))
}

async fn sign_in_first(app: &App, method: &Method, uri: &Uri) -> Response {
    match app.is_set_up().await {
        Err(failure) => return failure.into_response(),
        Ok(false) => return Redirect::to("/setup").into_response(),
        Ok(true) => {}
    }
    if method != Method::GET {
        return Redirect::to("/login").into_response();
    }
    if uri.path().starts_with("/live/") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let next: String = url::form_urlencoded::byte_serialize(uri.path().as_bytes()).collect();
    let target = if uri.path() == "/" { "/login".to_owned() } else { format!("/login?next={next}") };
    Redirect::to(&target).into_response()
}

async fn with_form(app: &App, request: Request, expected: Option<&str>) -> Result<Request, Response> {
    let refused = |text: &str| Failure::Refused(text.to_owned()).into_response();
    if !origin::is_own(request.headers(), app.given.secure) {
        return Err(refused(
            "The form did not come from a page of this server. Open the page again and send it from there.",
        ));
    }
    let is_form = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    if !is_form {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response());
    }
    let (mut parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, FORM_BYTES_MAX).await else {
        return Err(StatusCode::PAYLOAD_TOO_LARGE.into_response());
    };
    let fields = Fields::parse(&bytes);
    if !expected.is_some_and(|expected| tokens::same(expected, fields.raw("form_token"))) {
        return Err(refused(
            "The page was too old, or from another session. Open it again and send the form once more.",
        ));
    }
    parts.extensions.insert(fields);
    Ok(Request::from_parts(parts, Body::empty()))
}

impl App {
    /// Whether an administrator exists.
    pub async fn is_set_up(&self) -> Result<bool, Failure> {
        if self.set_up.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let exists = !self.db().needs_setup().await?;
        self.set_up.store(exists, Ordering::Relaxed);
        Ok(exists)
    }
}
