//! How a worker comes in: once with a token, later with what it was given then.
//!
//! Must never: send the token to a console whose certificate is not the one the token names.

use crate::failure::Failure;
use clap::Args;
use db::Enrolment;
use domain::worker::check_name;
use hypervisor::tls::{Pin, client_config};
use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;
use url::{Host, Url};

/// In the worker's data folder.
const FILE: &str = "enrolment.json";
const FILE_BYTES_MAX: u64 = 64 * 1024;
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ENROL_SECONDS_MAX: u64 = 60;

/// What is typed the first time.
#[derive(Debug, Args)]
pub struct Entry {
    /// Address of the console, `https://stillframe.example.org:8443`. Needed once, with the token.
    #[arg(long, env = "STILLFRAME_SERVER", requires = "token")]
    server: Option<Url>,
    /// The token that the console shows under Settings, Workers, “Add a worker”. Needed once.
    #[arg(long, env = "STILLFRAME_WORKER_TOKEN", hide_env_values = true, requires = "server")]
    token: Option<Token>,
    /// Name of the worker in the console; its machine's without it. One that replaces another keeps that one's.
    #[arg(long)]
    name: Option<String>,
}

/// The secret, and the only certificate it may be shown to.
#[derive(Debug, Clone)]
struct Token {
    secret: SecretString,
    certificate_sha256: Option<[u8; 32]>,
}

impl std::str::FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (secret, pin) = text.split_once('.').map_or((text, None), |(secret, pin)| (secret, Some(pin)));
        let pin = pin.map(|pin| hex::decode(pin).ok().and_then(|bytes| bytes.try_into().ok()));
        if secret.is_empty() || pin == Some(None) {
            return Err("it is not whole: copy it again from the console");
        }
        Ok(Self { secret: secret.into(), certificate_sha256: pin.flatten() })
    }
}

impl Entry {
    /// What the worker was given: now, if there is a token, or earlier. The credential key and the password of its account
    /// stay in a file that its account alone may read.
    pub async fn enrolment(&self, data: &Path) -> Result<Enrolment, Failure> {
        let (Some(server), Some(token)) = (&self.server, &self.token) else {
            return kept(data)?.ok_or_else(|| {
                Failure::because("The worker cannot start", "it has not been enrolled")
                    .hint("The console shows the command for that: Settings, Workers, “Add a worker”.")
            });
        };
        let what = || format!("The worker could not be enrolled at {server}");
        let name = self.name.clone().unwrap_or_else(crate::serve::server_name);
        check_name(&name)
            .map_err(|error| Failure::new(what(), &error).hint("Give the worker a name of its own with --name."))?;
        let mut enrolment = ask(server, token, &name).await.map_err(|why| {
            Failure::because(what(), why).hint("Is the address right, and the token the newest? One works once.")
        })?;
        if enrolment.reach.host.is_none() {
            // The database is where the console is.
            enrolment.reach.host = server.host().map(|host| match host {
                Host::Domain(name) => name.to_owned(),
                Host::Ipv4(ip) => ip.to_string(),
                Host::Ipv6(ip) => ip.to_string(),
            });
        }
        keep(data, &enrolment)
            .map_err(|error| Failure::new(format!("{} cannot be written", data.join(FILE).display()), &error))?;
        Ok(enrolment)
    }
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

async fn ask(server: &Url, token: &Token, name: &str) -> Result<Enrolment, String> {
    let loopback = match server.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => return Err("the address names no machine".to_owned()),
    };
    if server.scheme() != "https" && !loopback {
        return Err("the address does not begin with https://, and the answer holds passwords".to_owned());
    }
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(ENROL_SECONDS_MAX));
    let client = match token.certificate_sha256 {
        Some(sha256) => client.tls_backend_preconfigured(client_config(Pin::Sha256(sha256))),
        None => client,
    };
    let failed = |error: reqwest::Error| crate::failure::chain(&error);
    let address = server.join("/worker/enrol").map_err(|error| error.to_string())?;
    let request = client.build().map_err(failed)?.post(address);
    let body = serde_json::json!({ "name": name }).to_string();
    let answer = request.bearer_auth(token.secret.expose_secret()).body(body).send().await.map_err(failed)?;
    let good = answer.status().is_success();
    let text = text_of(answer).await?;
    if good {
        return Enrolment::from_json(&text).map_err(|error| format!("its answer cannot be read: {error}"));
    }
    Err(serde_json::from_str(&text)
        .map_or_else(|_| "there is no Stillframe console".to_owned(), |it: Refusal| it.error))
}

async fn text_of(mut answer: reqwest::Response) -> Result<String, String> {
    let mut bytes = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| crate::failure::chain(&error))? {
        if bytes.len() + part.len() > ANSWER_BYTES_MAX {
            return Err("its answer is too long".to_owned());
        }
        bytes.extend_from_slice(&part);
    }
    String::from_utf8(bytes).map_err(|_| "its answer is no text".to_owned())
}

/// What an earlier start was given.
pub fn kept(data: &Path) -> Result<Option<Enrolment>, Failure> {
    let path = data.join(FILE);
    let what = || format!("{} cannot be used", path.display());
    let mut text = zeroize::Zeroizing::new(String::new());
    match File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| Failure::new(what(), &error))?,
    };
    let enrolment = Enrolment::from_json(&text).map_err(|error| {
        Failure::new(what(), &error).hint("Add the worker again in the console, and start it with the new token.")
    })?;
    Ok(Some(enrolment))
}

/// Written beside and renamed into place: a token works once, so what it brought must not be lost.
fn keep(data: &Path, enrolment: &Enrolment) -> io::Result<()> {
    let (path, fresh) = (data.join(FILE), data.join(format!("{FILE}.new")));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&fresh, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(enrolment.to_json().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_the_certificate_it_may_be_shown_to() {
        let token: Token = format!("abc.{}", "0f".repeat(32)).parse().unwrap();
        assert_eq!((token.secret.expose_secret(), token.certificate_sha256), ("abc", Some([0x0f; 32])));
        assert_eq!("abc".parse::<Token>().unwrap().certificate_sha256, None);
        for cut in ["", ".", "abc.", "abc.0f0f"] {
            assert!(cut.parse::<Token>().is_err(), "{cut}");
        }
    }

    #[tokio::test]
    async fn a_token_is_not_sent_in_the_clear_to_another_machine() {
        let token: Token = "abc".parse().unwrap();
        let why = ask(&"http://192.0.2.1:8443".parse().unwrap(), &token, "b").await.unwrap_err();
        assert!(why.contains("https"), "{why}");
    }
}
