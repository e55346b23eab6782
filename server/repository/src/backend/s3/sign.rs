//! Signing requests: AWS Signature Version 4 for S3, with the payload's hash in the signature.

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use std::fmt::Write as _;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Headers of a request, names in lower case.
pub type Headers = Vec<(&'static str, String)>;

/// What is signed of a request.
pub struct Subject<'a> {
    pub method: &'a str,
    /// `host` or `host:port`, as the Host header will have it.
    pub host: &'a str,
    /// Escaped, with a leading `/`.
    pub path: &'a str,
    /// Escaped and sorted, without `?`.
    pub query: &'a str,
    pub payload_sha256: &'a [u8; 32],
}

/// An account's key.
pub struct Signer {
    pub access_key: String,
    pub secret_key: SecretString,
    pub region: String,
}

impl Signer {
    /// Adds the hash, the date and the signature over these and all `headers`.
    pub fn sign(&self, subject: &Subject<'_>, headers: &mut Headers, now: Timestamp) {
        let (stamp, day) = (now.strftime("%Y%m%dT%H%M%SZ").to_string(), now.strftime("%Y%m%d").to_string());
        let payload = hex::encode(subject.payload_sha256);
        headers.push(("x-amz-content-sha256", payload.clone()));
        headers.push(("x-amz-date", stamp.clone()));
        let mut signed: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.trim())).collect();
        signed.push(("host", subject.host));
        signed.sort_unstable();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let mut canonical = format!("{}\n{}\n{}\n", subject.method, subject.path, subject.query);
        for (name, value) in &signed {
            let _ = writeln!(canonical, "{name}:{value}"); // writing into a string cannot fail
        }
        let _ = write!(canonical, "\n{names}\n{payload}");
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("{ALGORITHM}\n{stamp}\n{scope}\n{}", hex::encode(sha256(canonical.as_bytes())));
        let mut key = hmac_sha256(format!("AWS4{}", self.secret_key.expose_secret()).as_bytes(), &day);
        for part in [self.region.as_str(), "s3", "aws4_request", &text] {
            key = hmac_sha256(key.as_ref(), part);
        }
        let credential = format!("{}/{scope}", self.access_key);
        let signature = hex::encode(key.as_ref());
        let value = format!("{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}");
        headers.push(("authorization", value));
    }
}

fn hmac_sha256(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha256_parts(&[Bytes::copy_from_slice(bytes)])
}

/// SHA-256 of parts, one after the other.
pub fn sha256_parts(parts: &[Bytes]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Escapes all but the characters that never need it. `/` stays where `keep_slash` says so.
pub fn escape(text: &str, keep_slash: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slash && byte == b'/') {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of "Signature Calculations for the Authorization Header" in the Amazon S3 API Reference.
    fn signature(path: &str, query: &str, mut headers: Headers) -> String {
        let signer = Signer {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: SecretString::from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            region: "us-east-1".to_owned(),
        };
        let host = "examplebucket.s3.amazonaws.com";
        let subject = Subject { method: "GET", host, path, query, payload_sha256: &sha256(b"") };
        signer.sign(&subject, &mut headers, "2013-05-24T00:00:00Z".parse().unwrap());
        let (_, value) = headers.last().unwrap();
        value.rsplit('=').next().unwrap().to_owned()
    }

    #[test]
    fn signs_as_the_reference_does() {
        let range = vec![("range", "bytes=0-9".to_owned())];
        let wanted = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(signature("/test.txt", "", range), wanted);
        let wanted = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
        assert_eq!(signature("/", "max-keys=2&prefix=J", Vec::new()), wanted);
    }

    #[test]
    fn escapes_what_is_not_plain() {
        assert_eq!(escape("a/b~c-1.x_", true), "a/b~c-1.x_");
        assert_eq!(escape("a/ü+ *", false), "a%2F%C3%BC%2B%20%2A");
    }
}
