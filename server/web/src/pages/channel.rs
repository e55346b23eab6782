//! The form of a channel: e-mail or webhook, what it is told and when.
//! Must never: show a password or signing key again, or send a kept password to another server than it was typed for.

use super::devices::record;
use super::{form_again, go, page};
use crate::auth::Session;
use crate::failure::Result;
use crate::form::{Fields, Problems};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::{Path, State};
use db::{Channel, ChannelId, ChannelInput, NoticeLimits};
use domain::notice::{ChannelConfig, DigestTime, MailSecurity, NoticeKind, Rules, Tell};
use jiff::civil::Time;
use jiff::tz::TimeZone;
use secrecy::ExposeSecret;

const NAME_LENGTH_MAX_CHARS: usize = 200;
const HOST_LENGTH_MAX_CHARS: usize = 253;
const ADDRESS_LENGTH_MAX_CHARS: usize = 254;
const URL_LENGTH_MAX_CHARS: usize = 1_000;
const RECIPIENTS_MAX: usize = 20;
const HOURLY_MAX: u32 = 1_000;
const HOURLY_USUAL: &str = "20";
const DIGEST_USUAL: &str = "07:00";
const SIGNING_KEY_LENGTH_MIN_CHARS: usize = 16;
/// Longest time before something is told: a week.
const MINUTES_MAX: u32 = 7 * 24 * 60;
const SPACE_PERCENT_MAX: u32 = 90;
/// Fields that hold a secret never come back into the form.
const SECRETS: [&str; 2] = ["secret", "form_token"];

/// Kinds of channels: word in addresses, word for people.
pub const KINDS: [(&str, &str); 2] = [("mail", "E-mail"), ("webhook", "Webhook")];

#[derive(Template)]
#[template(path = "settings/channel.html")]
struct Form {
    shell: Shell,
    kind: &'static str,
    /// The one that is changed.
    channel: Option<Channel>,
    answers: Fields,
    zones: Vec<String>,
    problems: Problems,
}

impl Form {
    async fn new(
        app: &App,
        session: &Session,
        kind: &'static str,
        channel: Option<Channel>,
        answers: Fields,
        problems: Problems,
    ) -> Result<Self> {
        let title = if channel.is_some() { "Change a channel" } else { "New channel" };
        let shell = Shell::new(app, session, Section::Settings, title).await?;
        let zones = jiff::tz::db().available().map(|name| name.to_string()).collect();
        Ok(Self { shell, kind, channel, answers, zones, problems })
    }

    fn value(&self, field: &str) -> &str {
        self.answers.get(field)
    }

    fn has(&self, field: &str) -> bool {
        self.answers.has(field)
    }

    fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    fn action(&self) -> String {
        match &self.channel {
            Some(channel) => format!("/settings/notifications/{}", channel.channel_id),
            None => "/settings/notifications/new".to_owned(),
        }
    }

    fn is_security(&self, word: &str) -> bool {
        let chosen = self.answers.get("security");
        chosen == word || (chosen.is_empty() && word == MailSecurity::default().as_str())
    }

    fn secret_hint<'a>(&self, hint: &'a str) -> &'a str {
        match &self.channel {
            Some(channel) if channel.has_secret => "Empty keeps the stored one. It is never shown.",
            _ => hint,
        }
    }

    /// Kinds of notices: field, words, which choice is made.
    fn rules(&self) -> Vec<(String, &'static str, Tell)> {
        let row = |kind: NoticeKind| {
            let field = format!("tell_{}", kind.as_str());
            let tell = Tell::parse(self.answers.get(&field)).unwrap_or_else(|| kind.usual());
            (field, kind.words(), tell)
        };
        NoticeKind::ALL.into_iter().map(row).collect()
    }
}

fn hint_id(field: &str) -> String {
    format!("n-{field}-h")
}

fn kind_of(word: &str) -> &'static str {
    KINDS.iter().map(|kind| kind.0).find(|kind| *kind == word).unwrap_or("mail")
}

/// What a new channel's form begins with.
fn usual(kind: &str, zone: &str) -> Fields {
    let mut pairs = vec![
        ("enabled", "yes"),
        ("hourly_max", HOURLY_USUAL),
        ("digest_at", DIGEST_USUAL),
        ("digest_zone", zone),
        ("also_when_well", "yes"),
    ];
    if kind == "mail" {
        pairs.push(("digest", "yes"));
    }
    Fields::of(pairs)
}

/// A channel as its form shows it; without its secret.
fn answers_of(channel: &Channel, zone: &str) -> Fields {
    let mut pairs: Vec<(&str, String)> =
        vec![("name", channel.name.clone()), ("hourly_max", channel.hourly_max.to_string())];
    match &channel.config {
        ChannelConfig::Mail { host, port, security, account, from, to, ca_pem } => pairs.extend([
            ("host", host.clone()),
            ("port", port.to_string()),
            ("security", security.as_str().to_owned()),
            ("account", account.clone()),
            ("from", from.clone()),
            ("to", to.join("\n")),
            ("ca_pem", ca_pem.clone()),
        ]),
        ChannelConfig::Webhook { url, plain_confirmed, ca_pem } => {
            pairs.extend([("url", url.clone()), ("ca_pem", ca_pem.clone())]);
            pairs.extend(plain_confirmed.then(|| ("plain_confirmed", "yes".to_owned())));
        }
    }
    pairs.extend(channel.enabled.then(|| ("enabled", "yes".to_owned())));
    let digest = channel.digest.as_ref();
    pairs.extend(digest.map(|_| ("digest", "yes".to_owned())));
    pairs.push(("digest_at", digest.map_or(DIGEST_USUAL.to_owned(), |it| it.at.strftime("%H:%M").to_string())));
    pairs.push(("digest_zone", digest.map_or_else(|| zone.to_owned(), |it| it.time_zone.clone())));
    pairs.extend(digest.is_none_or(|it| it.also_when_well).then(|| ("also_when_well", "yes".to_owned())));
    let rules = NoticeKind::ALL
        .into_iter()
        .map(|kind| (format!("tell_{}", kind.as_str()), channel.rules.of(kind).as_str().to_owned()));
    Fields::of(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(rules))
}

/// `GET /settings/notifications/new`
pub async fn new(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let kind = kind_of(fields.get("kind"));
    let answers = usual(kind, &app.times().zone_name());
    page(&Form::new(&app, &session, kind, None, answers, Problems::default()).await?)
}

/// `POST /settings/notifications/new`
pub async fn create(State(app): State<App>, session: Session, fields: Fields) -> Result {
    save(&app, &session, None, &fields).await
}

/// `GET /settings/notifications/{channel}`
pub async fn edit(State(app): State<App>, session: Session, Path(channel): Path<ChannelId>) -> Result {
    let channel = app.db().channel(channel).await?;
    let answers = answers_of(&channel, &app.times().zone_name());
    let kind = kind_of(channel.config.kind());
    page(&Form::new(&app, &session, kind, Some(channel), answers, Problems::default()).await?)
}

/// `POST /settings/notifications/{channel}`
pub async fn change(
    State(app): State<App>,
    session: Session,
    Path(channel): Path<ChannelId>,
    fields: Fields,
) -> Result {
    let channel = app.db().channel(channel).await?;
    save(&app, &session, Some(channel), &fields).await
}

async fn save(app: &App, session: &Session, channel: Option<Channel>, fields: &Fields) -> Result {
    let kind = channel.as_ref().map_or_else(|| kind_of(fields.get("kind")), |channel| kind_of(channel.config.kind()));
    let mut problems = Problems::default();
    let input = read(kind, fields, channel.as_ref(), &mut problems);
    if problems.is_empty() {
        let saved = match &channel {
            Some(channel) => app.db().update_channel(channel.channel_id, &input).await.map(|()| channel.channel_id),
            None => app.db().insert_channel(&input).await,
        };
        match saved {
            Ok(_) => {
                let action = if channel.is_some() { "channel.changed" } else { "channel.created" };
                record(app, session, action, &input.name, input.config.kind()).await?;
                return go("/settings/notifications?said=channel-saved");
            }
            Err(db::Error::Conflict(db::Conflict::ChannelName)) => {
                problems.add("name", "Another channel has this name.");
            }
            Err(db::Error::OutOfLimits { rule }) => problems.add("name", format!("No more channels: {rule}.")),
            Err(error) => return Err(error.into()),
        }
    }
    form_again(&Form::new(app, session, kind, channel, fields.without(&SECRETS), problems).await?)
}

fn read(kind: &str, fields: &Fields, channel: Option<&Channel>, problems: &mut Problems) -> ChannelInput {
    let name = fields.get("name").to_owned();
    problems.require("name", &name, NAME_LENGTH_MAX_CHARS, "The name");
    let config = if kind == "webhook" { webhook(fields, problems) } else { mail(fields, problems) };
    let secret = fields.has("secret").then(|| fields.secret("secret"));
    check_secret(&config, secret.as_ref(), channel, problems);
    let ca_pem = fields.get("ca_pem");
    if !ca_pem.is_empty() && !ca_pem.contains("-----END CERTIFICATE-----") {
        problems.add("ca_pem", "A certificate in PEM form, from its BEGIN to its END line.");
    }
    let hourly_max = fields.number::<u32>("hourly_max").filter(|max| (1..=HOURLY_MAX).contains(max));
    if hourly_max.is_none() {
        problems.add("hourly_max", format!("A number from 1 to {HOURLY_MAX}."));
    }
    ChannelInput {
        name,
        // Without an account there is no password to keep.
        secret: match &config {
            ChannelConfig::Mail { account, .. } if account.is_empty() => Some(String::new().into()),
            _ => secret,
        },
        config,
        enabled: fields.has("enabled"),
        rules: rules(fields),
        digest: digest(fields, problems),
        hourly_max: hourly_max.unwrap_or_default(),
    }
}

fn mail(fields: &Fields, problems: &mut Problems) -> ChannelConfig {
    let security = MailSecurity::parse(fields.get("security")).unwrap_or_default();
    let host = fields.get("host").to_owned();
    problems.require("host", &host, HOST_LENGTH_MAX_CHARS, "The server");
    if host.contains("://") || host.contains(['/', '@']) || host.contains(char::is_whitespace) {
        problems.add("host", "Only the name or address, without “smtp://”.");
    }
    let usual = security.usual_port();
    let port = if fields.has("port") { fields.number::<u16>("port").filter(|port| *port > 0) } else { Some(usual) };
    if port.is_none() {
        problems.add("port", format!("A number from 1 to 65535; empty for {usual}."));
    }
    let account = fields.get("account").to_owned();
    if security == MailSecurity::Plain && !account.is_empty() {
        problems.add("account", "No password is sent over a connection that is not encrypted: leave it empty.");
    }
    let from = fields.get("from").to_owned();
    if !is_address(&from) {
        problems.add("from", "An address such as backup@example.org.");
    }
    let to: Vec<String> =
        fields.get("to").split([',', ';', '\n', '\r', ' ']).filter(|it| !it.is_empty()).map(str::to_owned).collect();
    if to.is_empty() || to.len() > RECIPIENTS_MAX {
        problems.add("to", format!("From 1 to {RECIPIENTS_MAX} addresses."));
    }
    if let Some(bad) = to.iter().find(|address| !is_address(address)) {
        problems.add("to", format!("“{bad}” is no address."));
    }
    let ca_pem = fields.get("ca_pem").to_owned();
    ChannelConfig::Mail { host, port: port.unwrap_or(usual), security, account, from, to, ca_pem }
}

/// Enough to catch a slip; the mail server has the last word.
fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.contains(|it: char| it.is_whitespace() || it.is_control() || "<>,;@\"\\()[]:".contains(it))
    };
    text.chars().count() <= ADDRESS_LENGTH_MAX_CHARS && is_plain(local) && is_plain(domain)
}

fn webhook(fields: &Fields, problems: &mut Problems) -> ChannelConfig {
    let url = fields.get("url").to_owned();
    problems.require("url", &url, URL_LENGTH_MAX_CHARS, "The address");
    let plain_confirmed = fields.has("plain_confirmed");
    match url.parse::<url::Url>() {
        Ok(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            problems.add("url", "Without an account in the address: messages are signed instead.");
        }
        Ok(parsed) => match parsed.scheme() {
            "https" => {}
            "http" if plain_confirmed => {}
            "http" => problems.add("url", "This address is not encrypted. Confirm it below, or use https."),
            _ => problems.add("url", "An address that begins with https://."),
        },
        Err(_) => problems.add("url", "An address such as https://hooks.example.org/stillframe."),
    }
    ChannelConfig::Webhook { url, plain_confirmed, ca_pem: fields.get("ca_pem").to_owned() }
}

/// Where a mail channel's password goes, and how.
fn way(config: &ChannelConfig) -> Option<(&str, u16, &str, MailSecurity, &str)> {
    match config {
        ChannelConfig::Mail { host, port, account, security, ca_pem, .. } => {
            Some((host, *port, account, *security, ca_pem))
        }
        ChannelConfig::Webhook { .. } => None,
    }
}

/// A secret is there, and one that is kept goes only where it was meant to go.
fn check_secret(
    config: &ChannelConfig,
    typed: Option<&secrecy::SecretString>,
    channel: Option<&Channel>,
    problems: &mut Problems,
) {
    let kept = channel.is_some_and(|channel| channel.has_secret);
    match config {
        ChannelConfig::Mail { account, .. } if account.is_empty() || typed.is_some() => {}
        ChannelConfig::Mail { .. } if !kept => problems.add("secret", "The account’s password is missing."),
        ChannelConfig::Mail { .. } => {
            if channel.and_then(|channel| way(&channel.config)) != way(config) {
                let text = "Type the password again: it would go to another server or account, or another way.";
                problems.add("secret", text);
            }
        }
        ChannelConfig::Webhook { .. } => match typed {
            Some(key) if key.expose_secret().chars().count() < SIGNING_KEY_LENGTH_MIN_CHARS => {
                problems.add("secret", format!("At least {SIGNING_KEY_LENGTH_MIN_CHARS} characters."));
            }
            None if !kept => {
                problems.add("secret", "The signing key is missing: the receiver checks messages with it.");
            }
            _ => {}
        },
    }
}

fn rules(fields: &Fields) -> Rules {
    let rule = |kind: NoticeKind| Some((kind, Tell::parse(fields.get(&format!("tell_{}", kind.as_str())))?));
    Rules(NoticeKind::ALL.into_iter().filter_map(rule).collect())
}

fn digest(fields: &Fields, problems: &mut Problems) -> Option<DigestTime> {
    if !fields.has("digest") {
        return None;
    }
    let time_zone = fields.get("digest_zone").to_owned();
    if TimeZone::get(&time_zone).is_err() {
        problems.add("digest_zone", "This time zone is not known. Write it as Europe/Vienna.");
    }
    let (hour, minute) = fields.get("digest_at").split_once(':').unwrap_or_default();
    let at = hour.parse().ok().zip(minute.parse().ok()).and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok());
    if at.is_none() {
        problems.add("digest_at", "A time of day, such as 07:00.");
    }
    Some(DigestTime { at: at?, time_zone, also_when_well: fields.has("also_when_well") })
}

/// From when on something is told.
pub fn read_limits(fields: &Fields, problems: &mut Problems) -> NoticeLimits {
    let mut number = |field: &'static str, most: u32, usual: u32| {
        let number = fields.number::<u32>(field).filter(|number| (1..=most).contains(number));
        if number.is_none() {
            problems.add(field, format!("A number from 1 to {most}."));
        }
        number.unwrap_or(usual)
    };
    let usual = NoticeLimits::default();
    NoticeLimits {
        missed_grace_minutes: number("missed_grace_minutes", MINUTES_MAX, usual.missed_grace_minutes),
        device_minutes: number("device_minutes", MINUTES_MAX, usual.device_minutes),
        space_percent: number("space_percent", SPACE_PERCENT_MAX, usual.space_percent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_mailbox() {
        for good in ["ops@example.org", "a.b+c@x", "jörg@beispiel.example"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "ops", "@x", "a@", "a@b@c", "A <a@b>", "a b@c", "a@b\r\nBcc: c@d", "a@b,c@d"] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_stands_beside_its_field() {
        let cases = [
            ("mail", "name=m&host=h&from=a@b&to=a@b&hourly_max=5&account=me&secret=x&security=plain", "account"),
            ("mail", "name=m&host=h&from=a@b&to=a@b&hourly_max=5&account=me", "secret"),
            ("mail", "name=m&host=smtp://h&from=a@b&to=a@b&hourly_max=5", "host"),
            ("mail", "name=m&host=h&from=x&to=a@b&hourly_max=5", "from"),
            ("mail", "name=m&host=h&from=a@b&to=a@b+x&hourly_max=5", "to"),
            ("mail", "name=m&host=h&from=a@b&to=a@b&hourly_max=0", "hourly_max"),
            ("mail", "name=m&host=h&from=a@b&to=a@b&hourly_max=5&digest=1&digest_at=7&digest_zone=UTC", "digest_at"),
            ("webhook", "name=w&url=http://h/&hourly_max=5&secret=0123456789abcdef", "url"),
            ("webhook", "name=w&url=https://u:p@h/&hourly_max=5&secret=0123456789abcdef", "url"),
            ("webhook", "name=w&url=https://h/&hourly_max=5&secret=short", "secret"),
            ("webhook", "name=w&url=https://h/&hourly_max=5", "secret"),
            ("webhook", "name=w&url=https://h/&hourly_max=5&secret=0123456789abcdef&ca_pem=x", "ca_pem"),
        ];
        for (kind, body, field) in cases {
            let mut problems = Problems::default();
            read(kind, &Fields::parse(body.as_bytes()), None, &mut problems);
            assert!(problems.of(field).is_some(), "{body}");
        }
        let mut problems = Problems::default();
        let body = "name=w&url=http://h/&hourly_max=5&secret=0123456789abcdef&plain_confirmed=yes";
        read("webhook", &Fields::parse(body.as_bytes()), None, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
    }
}
