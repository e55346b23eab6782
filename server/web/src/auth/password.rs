//! Passwords of accounts: argon2id with the parameters OWASP names first, in a thread of its own, few at a time.

use crate::failure::{Failure, Result};
use crate::state::App;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use std::sync::LazyLock;

/// Shortest password of an account.
pub const PASSWORD_LENGTH_MIN_CHARS: usize = 12;
/// Longest; more would only make hashing slow.
pub const PASSWORD_LENGTH_MAX_CHARS: usize = 200;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;

/// Hashes a new password.
pub async fn hash(app: &App, password: SecretString) -> Result<String> {
    let _permit = app.hashing.acquire().await.map_err(|_| Failure::Internal("the server stops"))?;
    tokio::task::spawn_blocking(move || hash_now(&password))
        .await
        .map_err(|_| Failure::Internal("password hashing panicked"))?
        .ok_or(Failure::Internal("password hashing failed"))
}

/// Whether the password fits the hash. Without a hash (no such account) the same work is done for nothing, so that the
/// time of the answer does not tell which names exist.
pub async fn fits(app: &App, password: SecretString, stored: Option<String>) -> Result<bool> {
    let _permit = app.hashing.acquire().await.map_err(|_| Failure::Internal("the server stops"))?;
    tokio::task::spawn_blocking(move || {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| DUMMY.clone());
        PasswordHash::new(&stored)
            .is_ok_and(|parsed| hasher().is_some_and(|it| it.verify_password(bytes(&password), &parsed).is_ok()))
            && known
    })
    .await
    .map_err(|_| Failure::Internal("password hashing panicked"))
}

static DUMMY: LazyLock<String> =
    LazyLock::new(|| hash_now(&SecretString::from("no account has this name".to_owned())).unwrap_or_default());

/// Hashes a password outside the console, for the command line.
pub async fn hash_password(password: SecretString) -> Option<SecretString> {
    tokio::task::spawn_blocking(move || hash_now(&password)).await.ok().flatten().map(SecretString::from)
}

fn hash_now(password: &SecretString) -> Option<String> {
    let mut salt = [0_u8; SALT_BYTES];
    getrandom::fill(&mut salt).ok()?;
    let salt = SaltString::encode_b64(&salt).ok()?;
    hasher()?.hash_password(bytes(password), &salt).ok().map(|hash| hash.to_string())
}

fn hasher() -> Option<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn bytes(password: &SecretString) -> &[u8] {
    password.expose_secret().as_bytes()
}

/// What is wrong with a new password.
pub fn problem(password: &SecretString) -> Option<String> {
    let length = password.expose_secret().chars().count();
    if length < PASSWORD_LENGTH_MIN_CHARS {
        Some(format!("Too short: {length} of at least {PASSWORD_LENGTH_MIN_CHARS} characters."))
    } else if length > PASSWORD_LENGTH_MAX_CHARS {
        Some(format!("Too long: {length} of at most {PASSWORD_LENGTH_MAX_CHARS} characters."))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_argon2id_and_salted() {
        let password = SecretString::from("correct horse battery");
        let (one, two) = (hash_now(&password).unwrap(), hash_now(&password).unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        let parsed = PasswordHash::new(&one).unwrap();
        assert!(hasher().unwrap().verify_password(b"correct horse battery", &parsed).is_ok());
        assert!(hasher().unwrap().verify_password(b"correct horse batterx", &parsed).is_err());
    }

    #[test]
    fn short_passwords_are_refused_with_figures() {
        assert_eq!(problem(&SecretString::from("ninechars")).unwrap(), "Too short: 9 of at least 12 characters.");
        assert_eq!(problem(&SecretString::from("twelve chars")), None);
    }
}
