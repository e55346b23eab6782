//! The frame around every page: navigation with its counts, theme, account, the form token, and how times are written.

use crate::auth::Session;
use crate::failure::Result;
use crate::format;
use crate::format::Of;
use crate::state::App;
use crate::ui::{self, Html, escape};
use axum::http::{HeaderMap, Uri};
use domain::permission::{Permission, Role};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Cookie with the theme. Not a secret and not bound to a session.
pub const THEME_COOKIE: &str = "stillframe-theme";

/// Where a page belongs in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `/`
    Home,
    /// `/devices`
    Devices,
    /// `/machines`
    Machines,
    /// `/tasks`
    Tasks,
    /// `/activity`
    Activity,
    /// `/restore`
    Restore,
    /// `/storage`
    Storage,
    /// `/settings`
    Settings,
    /// Not in the navigation.
    None,
}

/// A line of the navigation.
pub struct Entry {
    /// Words.
    pub name: &'static str,
    /// Address.
    pub path: &'static str,
    /// Icon.
    pub icon: &'static str,
    /// This section is open.
    pub current: bool,
    /// How many there are.
    pub count: Option<i64>,
}

/// How times are written on this page.
#[derive(Clone)]
pub struct Times {
    /// Moment of the request.
    pub now: Timestamp,
    /// The server's zone.
    pub zone: TimeZone,
}

impl Times {
    /// `<time>` with day and clock.
    pub fn moment(&self, then: impl Of<Timestamp>) -> Html {
        let then = then.value();
        self.tag(then, &format::moment(then, self.now, &self.zone))
    }

    /// `<time>` with how long ago, or in how long.
    pub fn ago(&self, then: impl Of<Timestamp>) -> Html {
        let then = then.value();
        self.tag(then, &format::relative(then, self.now))
    }

    /// `<time>` with the clock only.
    pub fn clock(&self, then: impl Of<Timestamp>) -> Html {
        let then = then.value();
        self.tag(then, &format::pattern(then, &self.zone, "%H:%M"))
    }

    /// `<time>` with the clock to the second.
    pub fn seconds(&self, then: impl Of<Timestamp>) -> Html {
        let then = then.value();
        self.tag(then, &format::pattern(then, &self.zone, "%H:%M:%S"))
    }

    /// `<time>` for a list of what comes next: the clock, with the day under it unless it is today.
    pub fn next_clock(&self, then: impl Of<Timestamp>) -> Html {
        let then = then.value();
        let day = self.text(then, "%a %-d %b");
        let today = self.text(self.now, "%a %-d %b");
        let under = if day == today { format::relative(then, self.now) } else { day };
        let clock = self.text(then, "%H:%M");
        let machine = then.to_string();
        Html(format!(r#"<time datetime="{machine}">{clock}<small>{}</small></time>"#, escape(&under)))
    }

    /// Day and clock without markup.
    pub fn moment_text(&self, then: impl Of<Timestamp>) -> String {
        format::moment(then.value(), self.now, &self.zone)
    }

    /// Any pattern, without markup.
    pub fn text(&self, then: Timestamp, pattern: &str) -> String {
        format::pattern(then, &self.zone, pattern)
    }

    /// `Europe/Vienna`, or `UTC`.
    pub fn zone_name(&self) -> String {
        match self.zone.iana_name() {
            Some("Etc/UTC" | "Etc/UCT" | "Etc/Universal" | "Etc/Zulu" | "Zulu") => "UTC".to_owned(),
            Some(name) => name.to_owned(),
            None if self.zone == TimeZone::UTC => "UTC".to_owned(),
            None => self.text(self.now, "UTC%:z"),
        }
    }

    fn tag(&self, then: Timestamp, text: &str) -> Html {
        let full = self.text(then, "%A %-d %B %Y, %H:%M:%S UTC%:z");
        let machine = then.to_string();
        Html(format!(r#"<time datetime="{}" title="{}">{}</time>"#, escape(&machine), escape(&full), escape(text)))
    }
}

/// Everything `shell.html` needs.
pub struct Shell {
    /// Title of the page.
    pub title: String,
    /// `light`, `dark`, or as the system.
    pub theme: Option<&'static str>,
    /// Account's name.
    pub account: String,
    /// Its role.
    pub role: Role,
    /// What the search box holds.
    pub search: String,
    /// Runs that are going on.
    pub running: i64,
    /// Version of the binary.
    pub version: &'static str,
    /// Name of the server.
    pub server_name: String,
    /// Times.
    pub times: Times,
    /// This page's address, without query.
    pub path: String,
    /// A sentence about what was just done.
    pub said: Option<&'static str>,
    token: String,
    section: Section,
    counts: db::views::ShellCounts,
}

impl Shell {
    /// The frame for a page.
    pub async fn new(app: &App, session: &Session, section: Section, title: impl Into<String>) -> Result<Self> {
        let counts = db::views::shell_counts(app.db()).await?;
        Ok(Self {
            title: title.into(),
            theme: session.theme,
            account: session.name.clone(),
            role: session.role,
            search: String::new(),
            running: counts.running,
            version: app.given.version,
            server_name: app.given.server_name.clone(),
            times: app.times(),
            path: session.path.clone(),
            said: session.said,
            token: session.form_token.clone(),
            section,
            counts,
        })
    }

    /// Whether the account may.
    pub fn may(&self, permission: Permission) -> bool {
        self.role.allows(permission)
    }

    /// May add, change and remove devices.
    pub fn may_devices(&self) -> bool {
        self.may(Permission::ManageDevices)
    }

    /// May add locations.
    pub fn may_locations(&self) -> bool {
        self.may(Permission::ManageLocations)
    }

    /// May start, pause, cancel.
    pub fn may_run(&self) -> bool {
        self.may(Permission::RunTasks)
    }

    /// May create and change tasks.
    pub fn may_edit(&self) -> bool {
        self.may(Permission::EditTasks)
    }

    /// May restore.
    pub fn may_restore(&self) -> bool {
        self.may(Permission::Restore)
    }

    /// The hidden field every form needs.
    pub fn token_field(&self) -> Html {
        token_field(&self.token)
    }

    /// The chosen theme is this one.
    pub fn is_theme(&self, name: &str) -> bool {
        self.theme == Some(name)
    }

    /// The navigation.
    pub fn navigation(&self) -> Vec<Entry> {
        let entry =
            |name, path, icon, section, count| Entry { name, path, icon, current: self.section == section, count };
        let some = |count: i64| (count > 0).then_some(count);
        vec![
            entry("Home", "/", "home", Section::Home, None),
            entry("Devices", "/devices", "server-2", Section::Devices, some(self.counts.devices)),
            entry("Virtual machines", "/machines", "device-desktop", Section::Machines, some(self.counts.machines)),
            entry("Backup tasks", "/tasks", "calendar-repeat", Section::Tasks, some(self.counts.tasks)),
            entry("Activity", "/activity", "activity", Section::Activity, None),
            entry("Restore", "/restore", "restore", Section::Restore, None),
            entry("Storage", "/storage", "database", Section::Storage, some(self.counts.repositories)),
            entry("Settings", "/settings", "settings", Section::Settings, None),
        ]
    }
}

/// Frame of the pages without an account: sign-in, setup, errors.
pub struct Gate {
    /// Title.
    pub title: String,
    /// Theme.
    pub theme: Option<&'static str>,
    /// Line at the bottom.
    pub foot: String,
    token: String,
}

impl Gate {
    /// A frame without a form.
    pub fn new(title: impl Into<String>, theme: Option<&'static str>) -> Self {
        Self { title: title.into(), theme, foot: String::new(), token: String::new() }
    }

    /// A frame with a form.
    pub fn with_form(app: &App, title: &str, theme: Option<&'static str>, token: String) -> Self {
        let foot = format!("{} · {}", app.given.server_name, app.given.version);
        Self { title: title.to_owned(), theme, foot, token }
    }

    /// The hidden field every form needs.
    pub fn token_field(&self) -> Html {
        token_field(&self.token)
    }
}

impl App {
    /// How times are written in this request.
    pub fn times(&self) -> Times {
        Times { now: self.now(), zone: self.given.time_zone.clone() }
    }
}

fn token_field(token: &str) -> Html {
    Html(format!(r#"<input type="hidden" name="form_token" value="{}">"#, escape(token)))
}

/// Theme by cookie.
pub fn theme_of(headers: &HeaderMap) -> Option<&'static str> {
    match crate::auth::cookie(headers, THEME_COOKIE) {
        Some("light") => Some("light"),
        Some("dark") => Some("dark"),
        _ => None,
    }
}

/// Sentences that may stand above a page after a form; the address names one, so that nothing else can be put there.
pub fn said_of(uri: &Uri) -> Option<&'static str> {
    let word = uri.query()?.split('&').find_map(|pair| pair.strip_prefix("said="))?;
    Some(match word {
        "device-added" => "The device is saved. Its machines are being read now; they appear within seconds.",
        "device-saved" => "The device is saved.",
        "device-tested" => "The device answers. What was found is below.",
        "device-removed" => "The device is removed.",
        "sync-queued" => "Reading the inventory. New machines appear within seconds.",
        "task-created" => "The task is created.",
        "task-saved" => "The task is saved. It holds from the next run on.",
        "task-paused" => "The task is paused: no run starts by schedule.",
        "task-resumed" => "The task runs by schedule again.",
        "task-removed" => "The task is removed. Its restore points stay.",
        "run-cancelled" => "The run is being cancelled. Snapshots are removed first.",
        "retry-queued" => "The failed machines are tried again.",
        "location-ready" => "The location is ready.",
        "verify-queued" => "The check has started. Its result appears here.",
        "collect-queued" => "Giving space back has started. What was freed appears here.",
        "channel-saved" => "The channel is saved. Send a test to see what its receiver answers.",
        "channel-removed" => "The channel is removed.",
        "notices-saved" => "Saved. It holds from the next look on, within a minute.",
        "goal-saved" => "The goal is saved.",
        "tags-saved" => "The tags are saved. Tasks that choose by tag follow with their next run.",
        "point-pinned" => "The point is pinned: no rule removes it.",
        "point-unpinned" => "The point is unpinned: the rules decide about it again.",
        "floor-saved" => "The floor is saved. It holds at once.",
        "task-removed-rule" => "The task is removed. Its restore points go as its rule says.",
        "worker-drained" => "It takes no more jobs. What it works on goes on to its end.",
        "worker-resumed" => "It takes jobs again.",
        "worker-removed" => "The worker is removed: it can reach neither the database nor a job any more.",
        "metrics-closed" => "The token is removed. /metrics answers nobody.",
        "password-changed" => "The password is changed. Other sessions of this account have ended.",
        _ => return None,
    })
}

#[allow(unused_imports)] // templates call it as `ui::…`
use ui as _ui;
