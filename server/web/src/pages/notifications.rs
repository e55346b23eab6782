//! Notifications: the channels, what is told from when on, the last messages, test. The form of one: `channel.rs`.

use super::channel::read_limits;
use super::devices::record;
use super::{form_again, go, page};
use crate::auth::Session;
use crate::failure::Result;
use crate::form::{Fields, Problems};
use crate::format;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::{Channel, ChannelId, DeliveryLine, DeliveryState, NoticeLimits};
use domain::job::JobError;
use domain::notice::{ChannelConfig, NoticeKind, NoticeSeverity, Tell};

/// Messages in the list of the last ones.
const DELIVERIES: u32 = 25;

#[derive(Template)]
#[template(path = "settings/notifications.html")]
struct Notifications {
    shell: Shell,
    channels: Vec<Channel>,
    deliveries: Vec<DeliveryLine>,
    limits: NoticeLimits,
    problems: Problems,
    tested: Option<Tested>,
}

/// What came of a test.
struct Tested {
    channel: String,
    answers: Vec<(String, String)>,
    problem: Option<JobError>,
}

/// Where a channel goes, in words. Of a webhook's address the path may hold a secret.
fn place(config: &ChannelConfig) -> String {
    match config {
        ChannelConfig::Mail { host, to, .. } => match to.as_slice() {
            [one] => format!("{one}, by {host}"),
            [first, rest @ ..] => format!("{first} and {} more, by {host}", rest.len()),
            [] => host.clone(),
        },
        ChannelConfig::Webhook { url, .. } => match url.parse::<url::Url>() {
            Ok(url) => format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default()),
            Err(_) => "a webhook".to_owned(),
        },
    }
}

fn kind_word(config: &ChannelConfig) -> &'static str {
    match config {
        ChannelConfig::Mail { .. } => "E-mail",
        ChannelConfig::Webhook { .. } => "Webhook",
    }
}

fn icon(config: &ChannelConfig) -> &'static str {
    match config {
        ChannelConfig::Mail { .. } => "mail",
        ChannelConfig::Webhook { .. } => "webhook",
    }
}

/// What it is told, counted.
fn told(channel: &Channel) -> String {
    let count = |tell| NoticeKind::ALL.into_iter().filter(|kind| channel.rules.of(*kind) == tell).count();
    let mut words = vec![format!("{} at once", format::count(count(Tell::Now), "kind", "kinds"))];
    if let Some(digest) = &channel.digest {
        words.push(format!("a digest daily at {} ({})", digest.at.strftime("%H:%M"), digest.time_zone));
    }
    words.join(", ")
}

fn state(line: &DeliveryLine) -> Html {
    match line.state {
        DeliveryState::Sent => ui::st(Tone::Ok, "Delivered"),
        DeliveryState::Failed => ui::st(Tone::Bad, "Given up"),
        DeliveryState::Sending => ui::st(Tone::Run, "On its way"),
        DeliveryState::Queued if line.attempt > 0 => ui::st(Tone::Warn, "Trying again"),
        DeliveryState::Queued => ui::st(Tone::Idle, "Waiting"),
        DeliveryState::Held => ui::st(Tone::Idle, "Held back"),
        DeliveryState::Summed => ui::st(Tone::Idle, "In a summary"),
    }
}

/// Its next attempt is in the future.
fn waits(line: &DeliveryLine) -> bool {
    line.state == DeliveryState::Queued && line.attempt > 0
}

fn tone(line: &DeliveryLine) -> Html {
    match (line.over, line.severity) {
        (true, _) => Tone::Ok.icon_s(),
        (_, NoticeSeverity::Error) => Tone::Bad.icon_s(),
        (_, NoticeSeverity::Warning) => Tone::Warn.icon_s(),
        (_, NoticeSeverity::Info) => ui::icon_with("activity", "i i-s st-idle"),
    }
}

impl Notifications {
    async fn new(app: &App, session: &Session) -> Result<Self> {
        let (channels, deliveries, limits) = tokio::try_join!(
            app.db().channels(),
            app.db().newest_deliveries(None, DELIVERIES),
            app.db().notice_limits(),
        )?;
        let shell = Shell::new(app, session, Section::Settings, "Notifications").await?;
        Ok(Self { shell, channels, deliveries, limits, problems: Problems::default(), tested: None })
    }

    /// What the last messages of a channel say about it: that one is being tried again, or what became of the newest.
    fn health(&self, channel: &ChannelId) -> Html {
        if self.deliveries.iter().any(|line| line.channel_id == *channel && waits(line)) {
            return ui::st(Tone::Warn, "Trying again");
        }
        let newest = self
            .deliveries
            .iter()
            .find(|line| line.channel_id == *channel && (line.attempt > 0 || line.state == DeliveryState::Sent));
        newest.map_or_else(|| ui::st(Tone::Idle, "Nothing sent yet"), state)
    }
}

/// `GET /settings/notifications`
pub async fn list(State(app): State<App>, session: Session) -> Result {
    page(&Notifications::new(&app, &session).await?)
}

/// `POST /settings/notifications/limits`
pub async fn limits(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let mut problems = Problems::default();
    let limits = read_limits(&fields, &mut problems);
    if !problems.is_empty() {
        return form_again(&Notifications { limits, problems, ..Notifications::new(&app, &session).await? });
    }
    app.db().set_notice_limits(&limits).await?;
    let detail = format!(
        "run {} min, device {} min, space {} %",
        limits.missed_grace_minutes, limits.device_minutes, limits.space_percent
    );
    record(&app, &session, "notices.limits_changed", "Notifications", &detail).await?;
    go("/settings/notifications?said=notices-saved")
}

/// `POST /settings/notifications/{channel}/test`
pub async fn test(State(app): State<App>, session: Session, Path(channel): Path<ChannelId>) -> Result {
    let channel = app.db().channel(channel).await?;
    let tested = app.given.backend.test_channel(channel.channel_id).await;
    let outcome = if tested.is_ok() { "delivered" } else { "not delivered" };
    record(&app, &session, "channel.tested", &channel.name, outcome).await?;
    let tested = match tested {
        Ok(answers) => Tested { channel: channel.name, answers, problem: None },
        Err(error) => Tested { channel: channel.name, answers: Vec::new(), problem: Some(error) },
    };
    page(&Notifications { tested: Some(tested), ..Notifications::new(&app, &session).await? })
}

/// `POST /settings/notifications/{channel}/remove`
pub async fn remove(State(app): State<App>, session: Session, Path(channel): Path<ChannelId>) -> Result {
    let channel = app.db().channel(channel).await?;
    app.db().remove_channel(channel.channel_id).await?;
    record(&app, &session, "channel.removed", &channel.name, &place(&channel.config)).await?;
    go("/settings/notifications?said=channel-removed")
}
