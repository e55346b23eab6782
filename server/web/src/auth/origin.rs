//! Where a request that changes something came from.

use axum::http::{HeaderMap, header};

/// Whether the browser says that the form was on a page of this very server.
///
/// Browsers send `Origin` with every POST (our Referrer-Policy keeps it whole on our own pages) and `Sec-Fetch-Site` when
/// the connection counts as secure. A request with neither is not from a page of ours.
pub fn is_own(headers: &HeaderMap, secure: bool) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST.as_str()) else { return false };
    if text("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return false;
    }
    let scheme = if secure { "https" } else { "http" };
    text(header::ORIGIN.as_str()).is_some_and(|origin| {
        origin
            .split_once("://")
            .is_some_and(|(its_scheme, its_host)| its_scheme == scheme && its_host.eq_ignore_ascii_case(host))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_our_own_pages_may_send_forms() {
        let own = [("host", "sf.example:8443"), ("origin", "https://sf.example:8443")];
        assert!(is_own(&headers(&own), true));
        assert!(!is_own(&headers(&own), false), "another scheme");
        for other in [
            &[("host", "sf.example:8443")][..],
            &[("host", "sf.example:8443"), ("origin", "null")],
            &[("host", "sf.example:8443"), ("origin", "https://evil.example")],
            &[("host", "sf.example:8443"), ("origin", "https://sf.example")],
            &[("host", "sf.example:8443"), ("origin", "https://sf.example:8443"), ("sec-fetch-site", "cross-site")],
            &[("origin", "https://sf.example:8443")],
        ] {
            assert!(!is_own(&headers(other), true), "{other:?}");
        }
    }
}
