//! The console: server-rendered pages that work as plain forms, made live by server-sent events.
//!
//! Owns: routes, sessions, forms, pages, static files. HTTP only.
//! Must never: talk to a host or name an object of a repository (that is [`backend::Backend`]'s), write SQL (that is
//! `db`'s), show a secret again, or let a handler change something before the guard has seen token and origin.
//! Read next: `routes.rs` (the table of everything that answers), `auth/guard.rs`, `pages/`, `/templates`.

// Templates hand on fields by reference and locals by value; the helpers they call take both (`format::Of`), and
// methods of page structs are handed references to small ids.
#![allow(clippy::needless_pass_by_value, clippy::trivially_copy_pass_by_ref)]

pub mod assets;
mod auth;
pub mod backend;
mod exposition;
mod failure;
mod form;
mod format;
mod live;
mod pages;
mod routes;
mod security;
mod shell;
mod state;
#[cfg(test)]
mod tests;
mod ui;

pub use auth::password::hash_password;
pub use backend::{Backend, DemoHost, DemoHosts, HostAccess, NewLocation, Preflight};
pub use state::AppState;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use std::time::Duration;
use tower_http::compression::{CompressionLayer, CompressionLevel};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

/// A request that takes longer is given up; a host that is being added may take most of it.
const REQUEST_SECONDS_MAX: u64 = 60;

/// The console as one service. Serve it with connect info (`SocketAddr`), so that sign-ins are throttled by address.
pub fn router(given: AppState) -> Router {
    let app = state::App::new(given);
    let mut router = Router::new();
    for route in routes::table() {
        let guarded = route.handler.layer(from_fn_with_state((app.clone(), route.permission), auth::guard));
        router = router.route(route.path, guarded);
    }
    router
        .fallback(pages::not_found)
        .layer(CompressionLayer::new().quality(CompressionLevel::Precise(4)))
        .layer(from_fn(failure::pages))
        .layer(RequestBodyLimitLayer::new(auth::FORM_BYTES_MAX))
        .layer(TimeoutLayer::with_status_code(
            axum::http::StatusCode::REQUEST_TIMEOUT,
            Duration::from_secs(REQUEST_SECONDS_MAX),
        ))
        .layer(from_fn(security::headers))
        .with_state(app)
}
