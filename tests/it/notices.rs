//! Notices over real sockets, judged by receivers that share no code with us: an SMTP server and a webhook in Python.

use crate::rig::{Rig, Simulated, TaskSpec, machine};
use courier::{Parcel, deliver, deliver_within};
use db::{ChannelInput, DeliveryState};
use domain::job::JobState;
use domain::notice::{ChannelConfig, Item, MailSecurity, Message, NoticeKind, NoticeSeverity, Rules, Subject, Tell};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use uuid::Uuid;

const PASSWORD: &str = "a password of this test";
const KEY: &str = "a signing key of this test";
const TO: &str = "ops@example.org";

/// A receiver; it ends when its standard input does.
struct Receiver {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
    ca_pem: String,
}

impl Receiver {
    fn start(what: &str, security: &str, faults: &str) -> Self {
        let mut child = Command::new(support::python())
            .arg(support::repository_root().join("tests/peers/notice_receivers.py"))
            .args([what, security, faults])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the receiver starts");
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().expect("standard output")).lines();
        let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
        let port = first["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        Self { child, stdin, lines, port, ca_pem: first["ca_pem"].as_str().expect("PEM").to_owned() }
    }

    /// Ends it; everything that it told.
    fn end(mut self) -> Vec<Value> {
        drop(self.stdin.take());
        let told = self.lines.by_ref().map(|line| serde_json::from_str(&line.expect("text")).expect("JSON")).collect();
        let _ = self.child.wait();
        told
    }

    fn mail(&self, security: MailSecurity) -> ChannelConfig {
        ChannelConfig::Mail {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            security,
            account: "backup".to_owned(),
            from: "backup@example.org".to_owned(),
            to: vec![TO.to_owned()],
            ca_pem: self.ca_pem.clone(),
        }
    }

    fn webhook(&self) -> ChannelConfig {
        let url = format!("https://127.0.0.1:{}/hook/with-a-secret", self.port);
        ChannelConfig::Webhook { url, plain_confirmed: false, ca_pem: self.ca_pem.clone() }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn message() -> Message {
    Message {
        kind: "backup_failed".to_owned(),
        severity: NoticeSeverity::Error,
        over: false,
        title: "Nächtlich: web-01 failed".to_owned(),
        detail: "Its older points stay.".to_owned(),
        items: vec![Item { name: "web-01".to_owned(), text: "The datastore is full.".to_owned() }],
        items_total: 1,
        subject: Subject { run_id: Some(7), ..Subject::default() },
        sections: Vec::new(),
        created_at: "2026-11-22T06:00:00Z".parse().expect("a time"),
    }
}

fn parcel(message: &Message, delivery_id: Uuid) -> Parcel<'_> {
    use domain::Clock as _;
    let now: Timestamp = domain::SystemClock.now();
    Parcel { delivery_id, recipient: TO, message, server: "backup-1", now }
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_by_starttls_and_by_tls_with_a_login() {
    for (word, security) in [("starttls", MailSecurity::Starttls), ("tls", MailSecurity::Tls)] {
        let receiver = Receiver::start("smtp", word, "ok");
        let (message, id) = (message(), Uuid::new_v4());
        let answer = deliver(&receiver.mail(security), Some(&PASSWORD.into()), &parcel(&message, id)).await;
        assert_eq!(answer.as_deref(), Ok("250 2.0.0 Queued as 4711"), "{word}");
        let told = receiver.end();
        let mail = told.iter().find(|it| it.get("subject").is_some()).expect("a mail");
        assert_eq!(mail["subject"], "[Stillframe] Error: Nächtlich: web-01 failed");
        assert_eq!(mail["id"], format!("<{id}@stillframe>"));
        assert_eq!((&mail["sender"], &mail["to"][0]), (&"backup@example.org".into(), &TO.into()));
        assert_eq!((&mail["encrypted"], &mail["login"]), (&true.into(), &true.into()), "{word}");
        let text = mail["text"].as_str().expect("a text");
        assert!(text.contains("- web-01: The datastore is full.") && text.contains("backup-1"), "{text}");
        assert!(mail["headers"].to_string().contains("auto-submitted"), "{mail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_goes_over_a_connection_in_the_clear() {
    let receiver = Receiver::start("smtp", "plain", "ok");
    let message = message();
    for security in [MailSecurity::Starttls, MailSecurity::Plain, MailSecurity::Tls] {
        let config = receiver.mail(security);
        let failure = deliver_within(&config, Some(&PASSWORD.into()), &parcel(&message, Uuid::new_v4()), LIMIT).await;
        assert!(failure.is_err(), "{security:?}: {failure:?}");
    }
    assert!(receiver.end().is_empty(), "nobody logged in, nothing was sent");
}

/// What a receiver with a fault gets is not taken for delivered, and is said in its own words.
const LIMIT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mail_server_does_wrong_is_said_in_its_own_words() {
    for (fault, expected) in [
        ("login", "535"),
        ("recipient", "No such mailbox here"),
        ("busy", "Come back later"),
        ("drop", ""),
        ("slow", "no answer within 3 s"),
    ] {
        let receiver = Receiver::start("smtp", "starttls", fault);
        let message = message();
        let parcel = parcel(&message, Uuid::new_v4());
        let answer =
            deliver_within(&receiver.mail(MailSecurity::Starttls), Some(&PASSWORD.into()), &parcel, LIMIT).await;
        let failure = answer.expect_err(fault).to_string();
        assert!(failure.contains(expected), "{fault}: {failure}");
        assert!(!failure.contains(PASSWORD), "{failure}");
        drop(receiver.end());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_certificate_that_was_given_is_accepted() {
    let message = message();
    let parcel = parcel(&message, Uuid::new_v4());
    let (mail, hook) = (Receiver::start("smtp", "tls", "ok"), Receiver::start("webhook", "tls", "ok"));
    let other = Receiver::start("webhook", "tls", "ok");
    let mut config = mail.mail(MailSecurity::Tls);
    let mut address = hook.webhook();
    for pem in [other.ca_pem.clone(), String::new()] {
        if let ChannelConfig::Mail { ca_pem, .. } = &mut config {
            ca_pem.clone_from(&pem);
        }
        if let ChannelConfig::Webhook { ca_pem, .. } = &mut address {
            ca_pem.clone_from(&pem);
        }
        let failure = deliver_within(&config, Some(&PASSWORD.into()), &parcel, LIMIT).await.expect_err("refused");
        assert!(failure.why.to_lowercase().contains("certificate"), "{failure}");
        let failure = deliver_within(&address, Some(&KEY.into()), &parcel, LIMIT).await.expect_err("refused");
        assert!(failure.why.to_lowercase().contains("certificate"), "{failure}");
    }
    assert!(mail.end().is_empty() && hook.end().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_what_is_documented_and_can_check_it() {
    let receiver = Receiver::start("webhook", "tls", "ok");
    let (message, id) = (message(), Uuid::new_v4());
    let answer = deliver(&receiver.webhook(), Some(&KEY.into()), &parcel(&message, id)).await;
    assert_eq!(answer.as_deref(), Ok("200 OK Thank you."));
    let wrong = deliver(&receiver.webhook(), Some(&"another signing key".into()), &parcel(&message, id)).await;
    assert!(wrong.is_ok(), "this receiver takes all, and tells what it thinks of it");
    let told = receiver.end();
    assert_eq!((&told[0]["genuine"], &told[1]["genuine"]), (&true.into(), &false.into()));
    assert_eq!((&told[0]["fresh"], &told[0]["delivery"]), (&true.into(), &id.to_string().into()));
    let body = &told[0]["body"];
    let document = std::fs::read_to_string(support::repository_root().join("docs/notices.md")).expect("the document");
    for field in body.as_object().expect("an object").keys() {
        assert!(document.contains(&format!("| `{field}` |")), "{field} is not in docs/notices.md");
    }
    assert_eq!((&body["id"], &body["kind"]), (&id.to_string().into(), &"backup_failed".into()));
    assert_eq!((&body["version"], &body["subject"]["run_id"]), (&1.into(), &7.into()));
    assert_eq!(body["items"][0]["text"], "The datastore is full.");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_does_wrong_is_bounded_and_said() {
    for (fault, expected) in [
        ("503", "503 Service Unavailable Not today."),
        ("redirect", "302 Found"),
        ("drop", ""),
        ("slow", "no answer within 3 s"),
        ("flood", "500"),
    ] {
        let receiver = Receiver::start("webhook", "tls", fault);
        let message = message();
        let parcel = parcel(&message, Uuid::new_v4());
        let failure = deliver_within(&receiver.webhook(), Some(&KEY.into()), &parcel, LIMIT).await.expect_err(fault);
        let said = failure.to_string();
        assert!(said.contains(expected) && said.len() < 3_000, "{fault}: {said}");
        assert!(!said.contains("with-a-secret"), "of an address only the server is shown: {said}");
        assert_eq!(receiver.end().len(), 1, "{fault}: asked once, redirects are not followed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_needs_a_confirmation_and_some_addresses_are_never_dialled() {
    let receiver = Receiver::start("webhook", "plain", "ok");
    let message = message();
    let parcel = parcel(&message, Uuid::new_v4());
    let config = |url: &str, plain_confirmed| ChannelConfig::Webhook {
        url: url.to_owned(),
        plain_confirmed,
        ca_pem: String::new(),
    };
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    assert!(deliver(&config(&url, false), Some(&KEY.into()), &parcel).await.is_err());
    assert!(deliver(&config(&url, true), Some(&KEY.into()), &parcel).await.is_ok());
    assert_eq!(receiver.end().len(), 1);
    for url in ["http://169.254.169.254/latest", "https://[fe80::1]/", "ftp://127.0.0.1/", "http://0.0.0.0/"] {
        let failure = deliver(&config(url, true), Some(&KEY.into()), &parcel).await.expect_err(url);
        assert!(failure.why.contains("not allowed") || failure.why.contains("only https"), "{url}: {failure}");
    }
}

fn input(name: &str, config: ChannelConfig, secret: &str) -> ChannelInput {
    ChannelInput {
        name: name.to_owned(),
        config,
        secret: Some(SecretString::from(secret)),
        enabled: true,
        rules: Rules([(NoticeKind::BackupSucceeded, Tell::Now)].into()),
        digest: None,
        hourly_max: 20,
    }
}

/// A server with a task of one machine.
async fn rig_with_task() -> (Rig, Simulated, db::TaskId) {
    let rig = Rig::start().await;
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![machine("web-01", &[(4, 1)])]).await;
    let device = rig.device(&host).await;
    let machines = [rig.vm(device, "web-01").await];
    let location = rig.location().await;
    let task = rig.task(location, TaskSpec { machines: &machines, ..TaskSpec::default() }).await;
    (rig, host, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_down_gets_each_message_once_from_two_servers() {
    let (rig, _host, task) = rig_with_task().await;
    let (_, second) = rig.second("two").await;
    let hook = Receiver::start("webhook", "tls", "503,drop,ok");
    let mail = Receiver::start("smtp", "starttls", "busy,drop,ok");
    let hooked = rig.db.insert_channel(&input("hook", hook.webhook(), KEY)).await.expect("a channel");
    let mailed = rig.db.insert_channel(&input("mail", mail.mail(MailSecurity::Starttls), PASSWORD)).await;
    rig.run_one(task, JobState::Succeeded).await;
    for channel in [hooked, mailed.expect("a channel")] {
        let line = rig
            .wait("the delivery", async || {
                let lines = rig.db.newest_deliveries(Some(channel), 5).await.expect("deliveries");
                assert!(lines.len() <= 1, "{lines:?}");
                lines.into_iter().find(|line| line.state == DeliveryState::Sent)
            })
            .await;
        assert_eq!((line.attempt, line.title.as_str()), (3, "nightly: 1 machine is backed up"));
    }
    second.stop().await;
    let told = hook.end();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|it| it["genuine"] == true && it["delivery"] == told[0]["delivery"]), "{told:?}");
    assert_eq!(mail.end().iter().filter(|it| it.get("subject").is_some()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_exactly_what_the_server_answered() {
    let rig = Rig::start().await;
    let receiver = Receiver::start("smtp", "starttls", "ok,login,recipient");
    let config = receiver.mail(MailSecurity::Starttls);
    let channel = rig.db.insert_channel(&input("mail", config, PASSWORD)).await.expect("a channel");
    let answers = rig.engine.test_channel(channel).await.expect("taken");
    assert_eq!(answers, [(TO.to_owned(), "250 2.0.0 Queued as 4711".to_owned())]);
    let refused = rig.engine.test_channel(channel).await.expect_err("the login is refused");
    assert_eq!(refused.code, "notice.not_delivered");
    assert!(refused.why.contains("535") && refused.hint.contains("password"), "{refused}");
    let refused = rig.engine.test_channel(channel).await.expect_err("the recipient is refused");
    assert!(refused.why.contains("No such mailbox here") && refused.why.contains(TO), "{refused}");
}
