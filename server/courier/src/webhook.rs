//! Webhooks: a POST of JSON that is signed.

use crate::{ANSWER_BYTES_MAX, Failure, Parcel, Result, chain, dial, tidy};
use aws_lc_rs::hmac;
use domain::notice::{ChannelConfig, Message};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use std::time::Duration;
use url::Url;
use uuid::Uuid;

const CONNECT_SECONDS_MAX: u64 = 10;

/// What is posted. `docs/notices.md` describes it.
#[derive(Serialize)]
struct Body<'a> {
    id: Uuid,
    version: u8,
    server: &'a str,
    #[serde(flatten)]
    message: &'a Message,
}

/// Of an address what may be shown: a path or query may hold a secret.
pub fn who(url: &str) -> String {
    match url.parse::<Url>() {
        Ok(url) => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
        }
        Err(_) => "the webhook".to_owned(),
    }
}

/// `v1=` and the HMAC-SHA-256, in hexadecimal, of the timestamp, a full stop and the body.
pub fn signature(key: &[u8], timestamp: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    format!("v1={}", hex::encode(context.sign()))
}

/// Posts it.
pub async fn send(config: &ChannelConfig, key: Option<&SecretString>, parcel: &Parcel<'_>) -> Result {
    let ChannelConfig::Webhook { url, plain_confirmed, ca_pem } = config else {
        return Err(Failure { who: String::new(), why: "this is no webhook".to_owned(), hint: String::new() });
    };
    let fail = |why: String, hint: &str| Failure { who: who(url), why, hint: hint.to_owned() };
    let url: Url = url.parse().map_err(|error: url::ParseError| fail(error.to_string(), "Check the address."))?;
    match url.scheme() {
        "https" => {}
        "http" if *plain_confirmed => {}
        _ => return Err(fail("only https is allowed here".to_owned(), "Confirm the address to use http.")),
    }
    dial::refuse_literal(&url).map_err(|why| fail(why.to_owned(), "Use another address."))?;
    let key = key.ok_or_else(|| fail("the signing key is missing".to_owned(), "Enter it again."))?;
    let body = Body { id: parcel.delivery_id, version: 1, server: parcel.server, message: parcel.message };
    let body = serde_json::to_vec(&body).map_err(|error| fail(error.to_string(), ""))?;
    let timestamp = parcel.now.as_second().to_string();
    let request = client(ca_pem)
        .map_err(|why| fail(why, ""))?
        .post(url.clone())
        .header("content-type", "application/json")
        .header("stillframe-delivery", parcel.delivery_id.to_string())
        .header("stillframe-timestamp", &timestamp)
        .header("stillframe-signature", signature(key.expose_secret().as_bytes(), &timestamp, &body))
        .body(body);
    let response = request.send().await.map_err(|error| {
        // The path may hold a secret.
        let error = error.without_url();
        fail(chain(&error), "Check address, port and certificate, and that a firewall lets this server reach it.")
    })?;
    let status = response.status();
    let said = tidy(&format!("{status} {}", start_of(response).await));
    if status.is_success() {
        return Ok(said);
    }
    let hint = if status.is_redirection() {
        "Redirects are not followed: enter the address it should go to."
    } else {
        "The receiver refused it; its log says more."
    };
    Err(fail(said, hint))
}

fn client(ca_pem: &str) -> Result<Client, String> {
    // Fails when one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = Client::builder()
        .http1_only()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .user_agent("Stillframe")
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .dns_resolver(dial::GuardedResolver);
    if !ca_pem.is_empty() {
        let authorities = Certificate::from_pem_bundle(ca_pem.as_bytes()).map_err(|_| "the certificate is not PEM")?;
        builder = builder.tls_certs_only(authorities);
    }
    builder.build().map_err(|error| chain(&error))
}

/// The beginning of an answer; the rest is not read.
async fn start_of(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX
        && let Ok(Some(chunk)) = response.chunk().await
    {
        let room = ANSWER_BYTES_MAX - bytes.len();
        bytes.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_hmac_sha256_over_time_and_body() {
        // Computed with Python's hmac module.
        let expected = "v1=d3dd381bafa1e2e52935cde676a4c3e6082b019dfca40fc071c45c7e328e4a37";
        assert_eq!(signature(b"a signing key of this test", "1790000000", br#"{"id":1}"#), expected);
    }

    #[test]
    fn a_shown_address_has_no_path() {
        assert_eq!(who("https://hooks.example:8443/secret/token?x=1"), "https://hooks.example:8443");
        assert_eq!(who("not an address"), "the webhook");
    }
}
