//! Who asks, and may they: session cookie, form token, origin. The guard stands before every route of the table.
//! Must never: let a handler run that changes something before token and origin were right.
//! Read next: `password.rs`, `routes.rs`.

mod guard;
mod origin;
pub mod password;
pub mod tokens;

pub use guard::{FORM_BYTES_MAX, guard};
pub use tokens::cookie;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use db::AccountId;
use domain::permission::Role;
use std::time::Duration;

/// A session ends after this long without a request …
pub const SESSION_IDLE: Duration = Duration::from_secs(2 * 3600);
/// … and after this long in any case.
pub const SESSION_ABSOLUTE: Duration = Duration::from_secs(12 * 3600);

/// The account that asks. Present in every handler whose permission is not `Public`.
#[derive(Debug, Clone)]
pub struct Session {
    /// Row of the account.
    pub account_id: AccountId,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// SHA-256 of the cookie.
    pub token_hash: [u8; 32],
    /// Token of this session's forms.
    pub form_token: String,
    /// Theme by cookie.
    pub theme: Option<&'static str>,
    /// Address of this page, without query.
    pub path: String,
    /// A sentence about what was just done.
    pub said: Option<&'static str>,
}

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        // Missing only if a route was declared public and its handler wants an account: a mistake of ours.
        parts.extensions.get::<Self>().cloned().ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl<S: Sync> FromRequestParts<S> for crate::form::Fields {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        // The guard has read the body of a form; of a GET these are the query's fields.
        Ok(parts
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self::parse(parts.uri.query().unwrap_or_default().as_bytes())))
    }
}
