//! Random tokens and cookies.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const TOKEN_BYTES: usize = 32;
/// Longer cookies and bearer tokens are not looked at.
const TOKEN_LENGTH_MAX_CHARS: usize = 200;

/// 256 random bits as text.
pub fn random() -> Result<String, crate::failure::Failure> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|_| crate::failure::Failure::Internal("no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// What is stored of a token.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Compares without telling by time where two texts differ.
pub fn same(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}

/// The token that a program shows (`Authorization: Bearer …`).
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = given?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_LENGTH_MAX_CHARS).then_some(token)
}

/// Value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && value.len() <= TOKEN_LENGTH_MAX_CHARS)
        .map(|(_, value)| value)
}

/// Name of the session cookie: browsers accept the prefix over TLS only, and then from this very host only.
pub const fn session_cookie(secure: bool) -> &'static str {
    if secure { "__Host-stillframe" } else { "stillframe" }
}

/// Name of the cookie that ties the sign-in form to its browser.
pub const fn gate_cookie(secure: bool) -> &'static str {
    if secure { "__Host-stillframe-gate" } else { "stillframe-gate" }
}

/// A cookie for this host and this browser session.
pub fn cookie_line(name: &str, value: &str, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let line = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&line).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Removes it.
pub fn expired_cookie_line(name: &str, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let line = format!("{name}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{secure}");
    HeaderValue::from_str(&line).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_have_256_bits() {
        let (one, two) = (random().unwrap(), random().unwrap());
        assert_ne!(one, two);
        assert_eq!(URL_SAFE_NO_PAD.decode(&one).unwrap().len(), 32);
        assert!(same(&one, &one.clone()) && !same(&one, &two));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; __Host-stillframe=xyz"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        assert_eq!(cookie(&headers, "__Host-stillframe"), Some("xyz"));
        assert_eq!(cookie(&headers, "b"), Some("2"));
        assert_eq!(cookie(&headers, "stillframe"), None);
    }

    #[test]
    fn cookies_over_tls_are_bound_to_the_host() {
        let line = cookie_line(session_cookie(true), "v", true);
        assert_eq!(line, "__Host-stillframe=v; Path=/; HttpOnly; SameSite=Lax; Secure");
    }
}
