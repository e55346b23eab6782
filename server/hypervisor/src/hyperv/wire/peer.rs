//! The wire against an independent acceptor: pyspnego's NTLM, in `tests/peers/ntlm_acceptor.py`.

use super::{CallError, Client, Endpoint, Login, Request, Timeouts, Transport, Wsman};
use crate::ErrorKind;
use crate::hyperv::wire::Node;
use secrecy::SecretString;
use serde::Deserialize;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const ACCOUNT: &str = "LAB\\backup";
const PASSWORD: &str = "correct horse ü";

#[derive(Deserialize)]
struct Started {
    port: u16,
    sha256: String,
}

#[derive(Debug, Deserialize)]
struct Seen {
    crimes: Vec<String>,
    logins: u32,
    rounds: u32,
    refused: u32,
    bindings: bool,
}

struct Acceptor {
    child: Child,
    output: BufReader<ChildStdout>,
    started: Started,
    transport: Transport,
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python with pyspnego. Without one there is no second opinion: that fails the test.
fn python(root: &Path) -> PathBuf {
    let candidates = [root.join(".tools/venv/bin/python"), PathBuf::from("python3")];
    let found = candidates.into_iter().find(|python| {
        let imports = Command::new(python).args(["-c", "import spnego, cryptography"]).output();
        imports.is_ok_and(|output| output.status.success())
    });
    found.expect("no Python with pyspnego: `scripts/install.sh test` installs it into .tools/venv")
}

impl Acceptor {
    fn start(transport: Transport, more: &[&str]) -> Self {
        let word = match transport {
            Transport::SealedHttp => "http",
            Transport::TlsNtlm => "tls-ntlm",
            Transport::TlsBasic => "tls-basic",
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut child = Command::new(python(&root))
            .arg(root.join("tests/peers/ntlm_acceptor.py"))
            .args([word, "--account", ACCOUNT, "--password", PASSWORD])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let started = serde_json::from_str(&line).expect("the acceptor starts");
        Self { child, output, started, transport }
    }

    fn client(&self, password: &str) -> Client {
        let endpoint = Endpoint::new("127.0.0.1", self.started.port, self.transport).unwrap();
        let pin = hex::decode(&self.started.sha256).unwrap();
        let login = Login {
            account: ACCOUNT.into(),
            password: SecretString::from(password),
            transport: self.transport,
            pin: pin.try_into().unwrap_or_default(),
        };
        let timeouts = Timeouts { back_off: Duration::from_millis(1), ..Timeouts::default() };
        Client::new(endpoint, login, timeouts)
    }

    /// What it saw, with no crime among it.
    fn finish(mut self) -> Seen {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        let seen: Seen = serde_json::from_str(&text).expect("the acceptor says what it saw");
        assert!(seen.crimes.is_empty(), "{seen:?}");
        seen
    }
}

fn request(resource: &str, is_read: bool) -> Request {
    Request { action: "urn:x/Get".into(), resource: resource.into(), is_read, ..Request::default() }
}

async fn round(client: &Client, resource: &str) -> Result<Node, CallError> {
    client.send(request(resource, false)).await
}

fn failed(ended: Result<Node, CallError>) -> crate::HostError {
    ended.expect_err("this cannot succeed").during("h", "a")
}

async fn speaks(transport: Transport) {
    let acceptor = Acceptor::start(transport, &[]);
    let client = acceptor.client(PASSWORD);
    for number in 1..=5 {
        let resource = format!("urn:ü:{}", "x".repeat(number * 3000));
        let answer = round(&client, &resource).await.unwrap();
        assert_eq!(answer.text_at(&["Resource"]), Some(resource.as_str()));
        assert_eq!(answer.text_at(&["Long"]).unwrap().chars().count(), 9000);
    }
    let seen = acceptor.finish();
    let logins = u32::from(transport != Transport::TlsBasic);
    assert_eq!((seen.logins, seen.rounds, seen.refused), (logins, 5, 0), "{seen:?}");
    assert_eq!(seen.bindings, transport == Transport::TlsNtlm);
}

#[tokio::test]
async fn sealed_messages_go_both_ways() {
    speaks(Transport::SealedHttp).await;
}

#[tokio::test]
async fn ntlm_over_tls_is_bound_to_its_channel() {
    speaks(Transport::TlsNtlm).await;
}

#[tokio::test]
async fn basic_goes_over_tls() {
    speaks(Transport::TlsBasic).await;
}

#[tokio::test]
async fn many_callers_share_a_few_connections() {
    let acceptor = Acceptor::start(Transport::SealedHttp, &[]);
    let client = acceptor.client(PASSWORD);
    let calls = (0..30).map(|number| {
        let client = &client;
        async move {
            let resource = format!("urn:{number}");
            assert_eq!(round(client, &resource).await.unwrap().text_at(&["Resource"]), Some(resource.as_str()));
        }
    });
    futures_util::future::join_all(calls).await;
    let seen = acceptor.finish();
    assert_eq!(seen.rounds, 30);
    assert!(seen.logins <= 6, "{seen:?}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_in_words() {
    for transport in [Transport::SealedHttp, Transport::TlsNtlm, Transport::TlsBasic] {
        let acceptor = Acceptor::start(transport, &[]);
        let error = failed(acceptor.client("wrong").send(request("urn:x", true)).await);
        assert_eq!((error.kind, error.code), (ErrorKind::Login, "hyperv.login_refused"), "{error:?}");
        assert!(!format!("{error:?}").contains("wrong"));
        let seen = acceptor.finish();
        assert_eq!((seen.logins, seen.rounds), (0, 0), "{seen:?}");
        assert!(seen.refused <= 2, "an account is not locked by tries: {seen:?}");
    }
}

#[tokio::test]
async fn an_answer_with_a_flipped_bit_is_refused() {
    let acceptor = Acceptor::start(Transport::SealedHttp, &["--flip-bit", "2"]);
    let client = acceptor.client(PASSWORD);
    round(&client, "urn:1").await.unwrap();
    let error = failed(round(&client, "urn:2").await);
    assert_eq!((error.kind, error.code), (ErrorKind::Protocol, "hyperv.unsealed"), "{error:?}");
    // The connection is given up with it; a new one works.
    round(&client, "urn:3").await.unwrap();
    assert_eq!(acceptor.finish().logins, 2);
}

#[tokio::test]
async fn an_unsealed_answer_is_refused() {
    let acceptor = Acceptor::start(Transport::SealedHttp, &["--clear-answer", "2"]);
    let client = acceptor.client(PASSWORD);
    round(&client, "urn:1").await.unwrap();
    let error = failed(round(&client, "urn:2").await);
    assert_eq!(error.code, "hyperv.unsealed");
    assert!(error.reason.contains("not sealed"), "{error}");
    acceptor.finish();
}

#[tokio::test]
async fn a_connection_that_the_host_closed_is_replaced() {
    let acceptor = Acceptor::start(Transport::SealedHttp, &["--close-after", "1"]);
    let client = acceptor.client(PASSWORD);
    for number in 0..4 {
        // A read may be tried again whether or not the host saw it.
        client.send(request(&format!("urn:{number}"), true)).await.unwrap();
    }
    assert!(acceptor.finish().logins >= 4);
}

#[tokio::test]
async fn another_certificate_is_refused_before_the_login() {
    let acceptor = Acceptor::start(Transport::TlsBasic, &[]);
    let mut other = Acceptor::start(Transport::TlsBasic, &[]);
    other.started.port = acceptor.started.port;
    let error = failed(round(&other.client(PASSWORD), "urn:x").await);
    assert_eq!(error.kind, ErrorKind::CertificateChanged, "{error:?}");
    assert_eq!(acceptor.finish().rounds, 0);
}

#[tokio::test]
async fn basic_is_never_sent_without_tls() {
    // A host that offers nothing but Basic on plain HTTP gets no password.
    let acceptor = Acceptor::start(Transport::TlsBasic, &[]);
    let endpoint = Endpoint::new("127.0.0.1", acceptor.started.port, Transport::SealedHttp).unwrap();
    let login = Login {
        account: ACCOUNT.into(),
        password: SecretString::from(PASSWORD),
        transport: Transport::SealedHttp,
        pin: [0; 32],
    };
    let client = Client::new(endpoint, login, Timeouts::default());
    let error = failed(round(&client, "urn:x").await);
    assert_eq!(error.kind, ErrorKind::Interrupted, "{error:?}");
    assert_eq!(acceptor.finish().rounds, 0);
}
