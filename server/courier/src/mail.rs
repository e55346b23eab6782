//! Mail by SMTP: one message to one recipient.
//!
//! Must never: log in over a connection that is not encrypted.

use crate::{Failure, Parcel, Result, chain, dial, tidy};
use domain::notice::{ChannelConfig, MailSecurity, NoticeSeverity};
use lettre::message::{Mailbox, header};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use lettre::transport::smtp::{AsyncSmtpTransport, Error as SmtpError};
use lettre::{AsyncTransport, Message as Mail, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

/// A command that is not answered for so long ends the connection.
const COMMAND_SECONDS_MAX: u64 = 15;
/// Longest subject, characters.
const SUBJECT_CHARS_MAX: usize = 200;

struct Server<'a> {
    host: &'a str,
    port: u16,
    security: MailSecurity,
    account: &'a str,
    ca_pem: &'a str,
    /// Domain of the sender, which names us.
    hello: String,
}

/// Sends it.
pub async fn send(config: &ChannelConfig, password: Option<&SecretString>, parcel: &Parcel<'_>) -> Result {
    let ChannelConfig::Mail { host, port, security, account, from, ca_pem, .. } = config else {
        return Err(failure(parcel.recipient, "", "this is no mail channel".to_owned(), ""));
    };
    let who = format!("{host}:{port}");
    let fail = |why: String, hint: &str| failure(parcel.recipient, &who, why, hint);
    let mail = compose(from, parcel).map_err(|why| fail(why, "Check the addresses."))?;
    let hello = from.rsplit_once('@').map_or("localhost", |(_, domain)| domain.trim_end_matches('>')).to_owned();
    let server = Server { host, port: *port, security: *security, account, ca_pem, hello };
    let addresses = dial::resolve(host, *port)
        .await
        .map_err(|error| fail(chain(&error), "Check the server's name, and that this server can resolve it."))?;
    let mut last = None;
    for address in addresses {
        let transport = server.transport(address, password).map_err(|why| fail(why, ""))?;
        match transport.send(mail.clone()).await {
            Ok(response) => return Ok(answer(&response)),
            // Another address helps only where there was no server.
            Err(error) if error.status().is_some() || error.is_tls() || error.is_client() => {
                return Err(refused(&error, parcel.recipient, &who));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(
        || fail("the name has no address".to_owned(), ""),
        |error| refused(&error, parcel.recipient, &who),
    ))
}

impl Server<'_> {
    fn transport(
        &self,
        address: SocketAddr,
        password: Option<&SecretString>,
    ) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        let tls = match self.security {
            MailSecurity::Starttls => Tls::Required(self.tls()?),
            MailSecurity::Tls => Tls::Wrapper(self.tls()?),
            MailSecurity::Plain => Tls::None,
        };
        // The address that was checked, not the name once more.
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
            .port(self.port)
            .hello_name(ClientId::Domain(self.hello.clone()))
            .timeout(Some(Duration::from_secs(COMMAND_SECONDS_MAX)))
            .tls(tls);
        if !self.account.is_empty() {
            if self.security == MailSecurity::Plain {
                return Err("no password is sent over a connection that is not encrypted".to_owned());
            }
            let password = password.ok_or("the account's password is missing")?;
            let credentials = Credentials::new(self.account.to_owned(), password.expose_secret().to_owned());
            builder = builder.credentials(credentials);
        }
        Ok(builder.build())
    }

    fn tls(&self) -> Result<TlsParameters, String> {
        // Fails when one is installed already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = TlsParameters::builder(self.host.trim_matches(['[', ']']).to_owned());
        if !self.ca_pem.is_empty() {
            let authority = Certificate::from_pem(self.ca_pem.as_bytes()).map_err(|_| "the certificate is not PEM")?;
            builder = builder.certificate_store(CertificateStore::None).add_root_certificate(authority);
        }
        builder.build_rustls().map_err(|error| chain(&error))
    }
}

fn compose(from: &str, parcel: &Parcel<'_>) -> Result<Mail, String> {
    let address = |text: &str| text.parse::<Mailbox>().map_err(|error| format!("“{text}” is no address: {error}"));
    let message = parcel.message;
    let mark = match (message.severity, message.over) {
        (_, true) => "Over: ",
        (NoticeSeverity::Error, _) => "Error: ",
        (NoticeSeverity::Warning, _) => "Warning: ",
        (NoticeSeverity::Info, _) => "",
    };
    let subject: String =
        format!("[Stillframe] {mark}{}", tidy(&message.title)).chars().take(SUBJECT_CHARS_MAX).collect();
    let made = message.created_at;
    let text =
        format!("{}\n-- \nStillframe on {}, {}\n", message.text(), parcel.server, made.strftime("%Y-%m-%d %H:%M UTC"));
    Mail::builder()
        .from(address(from)?)
        .to(address(parcel.recipient)?)
        .subject(subject)
        .message_id(Some(format!("<{}@stillframe>", parcel.delivery_id)))
        .date(UNIX_EPOCH + Duration::from_secs(made.as_second().max(0).unsigned_abs()))
        .header(header::ContentType::TEXT_PLAIN)
        .header(AutoSubmitted)
        .body(text)
        .map_err(|error| chain(&error))
}

/// Out-of-office programs do not answer what says so.
#[derive(Debug, Clone)]
struct AutoSubmitted;

impl header::Header for AutoSubmitted {
    fn name() -> header::HeaderName {
        header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> header::HeaderValue {
        header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn answer(response: &Response) -> String {
    tidy(&format!("{} {}", response.code(), response.message().collect::<Vec<_>>().join(" ")))
}

fn refused(error: &SmtpError, recipient: &str, who: &str) -> Failure {
    const LOGIN_REFUSED: [&str; 3] = ["530", "534", "535"];
    let code = error.status().map(|code| code.to_string()).unwrap_or_default();
    let hint = if LOGIN_REFUSED.contains(&code.as_str()) {
        "Check account and password; some services want a password of its own for programs."
    } else if error.is_tls() {
        "Check name, port and kind of encryption. A certificate of your own making can be entered with the channel."
    } else if error.status().is_some() {
        "The mail server refused it; its log says more."
    } else {
        "Check address and port, and that a firewall lets this server reach it."
    };
    failure(recipient, who, chain(error), hint)
}

fn failure(recipient: &str, who: &str, why: String, hint: &str) -> Failure {
    let who = if recipient.is_empty() { who.to_owned() } else { format!("{recipient} by {who}") };
    Failure { who, why, hint: hint.to_owned() }
}
