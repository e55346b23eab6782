//! How a request ends when it does not succeed. Handlers return a [`Failure`]; a layer turns it into a page of the
//! console's look, without a word about the inside of the server.

use crate::shell::{Gate, theme_of};
use crate::ui;
use askama::Template;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No such page, or no such thing on it.
    #[error("not found")]
    NotFound,
    /// The account may not.
    #[error("not allowed")]
    Forbidden,
    /// A form without its token, from another origin, or with values no page of ours sends.
    #[error("{0}")]
    Refused(String),
    /// The database.
    #[error("database")]
    Database(#[from] db::Error),
    /// A page could not be written.
    #[error("page")]
    Page(#[from] askama::Error),
    /// Something that cannot be, in words for the log.
    #[error("{0}")]
    Internal(&'static str),
}

/// What a handler returns.
pub type Result<T = Response, E = Failure> = std::result::Result<T, E>;

#[derive(Clone)]
struct Words(String);

/// Marks an answer to a program: an error of it gets no page.
#[derive(Clone)]
pub struct Bare;

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match &self {
            Self::NotFound => (StatusCode::NOT_FOUND, String::new()),
            Self::Forbidden => (StatusCode::FORBIDDEN, String::new()),
            Self::Refused(text) => (StatusCode::BAD_REQUEST, text.clone()),
            Self::Database(error) => database(error),
            Self::Page(_) | Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        };
        if status.is_server_error() {
            tracing::error!(error = &self as &dyn std::error::Error, "request failed");
        }
        let mut response = status.into_response();
        response.extensions_mut().insert(Words(text));
        response
    }
}

fn database(error: &db::Error) -> (StatusCode, String) {
    match error {
        db::Error::NotFound { .. } => (StatusCode::NOT_FOUND, String::new()),
        db::Error::Conflict(_) | db::Error::InUse { .. } => (StatusCode::CONFLICT, error.to_string()),
        db::Error::Unavailable(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The database does not answer. Running backups go on; try again in a moment.".to_owned(),
        ),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    shell: Gate,
    status: u16,
    text: String,
}

/// Writes a page for every answer that is an error and has none yet.
pub async fn pages(request: Request, next: Next) -> Response {
    let theme = theme_of(request.headers());
    let mut response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error())
        || response.extensions().get::<Bare>().is_some()
        || response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
    {
        return response;
    }
    let words = response.extensions_mut().remove::<Words>().map(|words| words.0).unwrap_or_default();
    let (title, text) = words_of(status, words);
    let page = ErrorPage { shell: Gate::new(title, theme), status: status.as_u16(), text };
    let Ok(html) = page.render() else { return response };
    let retry = response.headers().get(header::RETRY_AFTER).cloned();
    let mut page = (status, Html(html)).into_response();
    if let Some(retry) = retry {
        page.headers_mut().insert(header::RETRY_AFTER, retry);
    }
    page.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page.map(Body::new)
}

fn words_of(status: StatusCode, words: String) -> (&'static str, String) {
    let (title, default) = match status {
        StatusCode::NOT_FOUND => {
            ("This page does not exist", "The address is wrong, or what it showed has been removed since.")
        }
        StatusCode::FORBIDDEN => {
            ("Your account may not do this", "An administrator can do it, or give your account another role.")
        }
        StatusCode::METHOD_NOT_ALLOWED => ("This page does not take that", "Open it from the navigation."),
        StatusCode::PAYLOAD_TOO_LARGE => ("That was too much at once", "The form is larger than the server accepts."),
        StatusCode::REQUEST_TIMEOUT => ("This took too long", "The server gave up waiting. Try it again."),
        StatusCode::CONFLICT => ("That is not possible now", "Something changed in the meantime. Look again."),
        StatusCode::SERVICE_UNAVAILABLE => ("The database does not answer", "Try again in a moment."),
        status if status.is_client_error() => ("The server did not accept this", "Go back and send the form again."),
        _ => ("The server failed here", "The reason is in the server’s log. Nothing was changed half-way."),
    };
    (title, if words.is_empty() { default.to_owned() } else { words })
}
