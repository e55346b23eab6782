//! A new location: what an operator enters for a folder, a share, an export or a bucket; and its recovery key.
//! Must never: show a secret again, or send one anywhere but to the engine.

use super::devices::record;
use super::{form_again, page};
use crate::auth::Session;
use crate::backend::LocationOrder;
use crate::failure::Result;
use crate::form::{Fields, Problems};
use crate::format;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Tone};
use askama::Template;
use axum::extract::State;
use db::DraftId;
use domain::job::JobError;
use engine::{Location, NfsLocation, Retention, RetentionMode, S3Location, SmbEncryption, SmbLocation};
use secrecy::ExposeSecret;

/// Longest name of a location.
const NAME_LENGTH_MAX_CHARS: usize = 200;
/// Longest path, address or name of a share.
const TEXT_LENGTH_MAX_CHARS: usize = 1_000;
/// A passphrase of a repository may be tried offline; it must not be short.
const PASSPHRASE_LENGTH_MIN_CHARS: usize = 12;
/// Longest lock: a hundred years.
const LOCK_DAYS_MAX: u32 = 36_500;
/// Fields that come back into the form after a mistake; secrets never do.
const KEPT: [&str; 19] = [
    "name",
    "path",
    "address",
    "port",
    "share",
    "folder",
    "account",
    "domain",
    "encryption",
    "export",
    "uid",
    "gid",
    "endpoint",
    "region",
    "bucket",
    "prefix",
    "access_key",
    "lock_days",
    "lock_mode",
];

/// Kinds of locations: word in addresses, word for people.
pub const KINDS: [(&str, &str); 4] =
    [("folder", "Folder"), ("smb", "SMB share"), ("nfs", "NFS export"), ("s3", "S3 bucket")];

#[derive(Template)]
#[template(path = "storage/new.html")]
struct New {
    shell: Shell,
    kind: &'static str,
    answers: Fields,
    draft: Option<DraftId>,
    problems: Problems,
    problem: Option<JobError>,
}

/// The only page that ever shows a recovery key; it is an answer to a POST and is not stored.
#[derive(Template)]
#[template(path = "storage/made.html")]
struct Made {
    shell: Shell,
    name: String,
    kind: &'static str,
    path: String,
    key: Option<String>,
    points: u64,
    next: String,
}

/// Id of a field's hint.
fn hint_id(field: &str) -> String {
    format!("s-{field}-h")
}

fn kind_of(fields: &Fields) -> &'static str {
    KINDS.iter().map(|kind| kind.0).find(|kind| *kind == fields.get("kind")).unwrap_or("folder")
}

/// `GET /storage/new`
pub async fn new(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let shell = Shell::new(&app, &session, Section::Storage, "Create a location").await?;
    let (kind, draft) = (kind_of(&fields), fields.get("draft").parse().ok());
    page(&New { shell, kind, answers: Fields::default(), draft, problems: Problems::default(), problem: None })
}

/// `POST /storage/new`
pub async fn create(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let kind = kind_of(&fields);
    let draft: Option<DraftId> = fields.get("draft").parse().ok();
    let mut problems = Problems::default();
    let order = order(kind, &fields, &mut problems);
    let mut problem = None;
    if problems.is_empty() {
        let (name, path) = (order.name.clone(), order.location.to_string());
        match app.given.backend.create_location(order).await {
            Ok(made) => {
                record(&app, &session, "location.created", &name, &path).await?;
                let next = match draft {
                    Some(draft) => format!("/tasks/draft/{draft}/location?made={}", made.repository_id),
                    None => format!("/storage/{}?said=location-ready", made.repository_id),
                };
                let shell = Shell::new(&app, &session, Section::Storage, "Recovery key").await?;
                let key = made.recovery_key.map(|key| key.expose_secret().to_owned());
                return page(&Made { shell, name, kind, path, key, points: made.points, next });
            }
            Err(error) => problem = Some(error),
        }
    }
    let shell = Shell::new(&app, &session, Section::Storage, "Create a location").await?;
    form_again(&New { shell, kind, answers: fields.only(&KEPT), draft, problems, problem })
}

/// What was entered, with what is wrong noted at its field.
fn order(kind: &str, fields: &Fields, problems: &mut Problems) -> LocationOrder {
    problems.require("name", fields.get("name"), NAME_LENGTH_MAX_CHARS, "The name");
    let passphrase = fields.secret("passphrase");
    let length = passphrase.expose_secret().chars().count();
    if length < PASSPHRASE_LENGTH_MIN_CHARS {
        problems
            .add("passphrase", format!("Too short: {length} of at least {PASSPHRASE_LENGTH_MIN_CHARS} characters."));
    } else if passphrase.expose_secret() != fields.raw("passphrase_again") {
        problems.add("passphrase_again", "The two passphrases differ.");
    }
    let location = match kind {
        "smb" => smb(fields, problems),
        "nfs" => nfs(fields, problems),
        "s3" => s3(fields, problems),
        _ => folder(fields, problems),
    };
    let secret = matches!(kind, "smb" | "s3").then(|| fields.secret("secret"));
    if secret.as_ref().is_some_and(|secret| secret.expose_secret().is_empty()) {
        problems.add("secret", if kind == "s3" { "The secret key is missing." } else { "The password is missing." });
    }
    LocationOrder { name: fields.get("name").to_owned(), location, secret, passphrase }
}

fn folder(fields: &Fields, problems: &mut Problems) -> Location {
    let path = fields.get("path");
    problems.require("path", path, TEXT_LENGTH_MAX_CHARS, "The folder");
    if !path.is_empty() && !path.starts_with('/') {
        problems.add("path", "A full path that begins with “/”.");
    }
    Location::Folder { path: path.into() }
}

/// A field that must not be empty.
fn needed(fields: &Fields, problems: &mut Problems, field: &'static str, what: &str) -> String {
    problems.require(field, fields.get(field), TEXT_LENGTH_MAX_CHARS, what);
    fields.get(field).to_owned()
}

/// A folder within a share or bucket: empty, or parts between slashes, none of them `..`.
fn inner(fields: &Fields, problems: &mut Problems, field: &'static str) -> String {
    let text = fields.get(field).replace('\\', "/");
    let text = text.trim_matches('/');
    let odd = |part: &str| part.is_empty() || part == "." || part == ".." || part.chars().any(char::is_control);
    if text.chars().count() > TEXT_LENGTH_MAX_CHARS || (!text.is_empty() && text.split('/').any(odd)) {
        problems.add(field, "A path within it, such as “backups/stillframe”.");
    }
    text.to_owned()
}

/// A number, or what stands for an empty field.
fn number<N: std::str::FromStr>(fields: &Fields, problems: &mut Problems, field: &'static str, empty: N) -> N {
    if fields.get(field).is_empty() {
        return empty;
    }
    fields.number(field).unwrap_or_else(|| {
        problems.add(field, "Not a number that fits here.");
        empty
    })
}

fn smb(fields: &Fields, problems: &mut Problems) -> Location {
    let share = needed(fields, problems, "share", "The share");
    if share.contains(['/', '\\']) {
        problems.add("share", "Only the share’s name; a folder in it goes into the next field.");
    }
    Location::Smb(SmbLocation {
        address: needed(fields, problems, "address", "The address"),
        port: number(fields, problems, "port", 445),
        share,
        folder: inner(fields, problems, "folder"),
        account: needed(fields, problems, "account", "The account"),
        domain: fields.get("domain").to_owned(),
        encryption: match fields.get("encryption") {
            "required" => SmbEncryption::Required,
            _ => SmbEncryption::Auto,
        },
    })
}

fn nfs(fields: &Fields, problems: &mut Problems) -> Location {
    let export = needed(fields, problems, "export", "The export");
    if !export.is_empty() && !export.starts_with('/') {
        problems.add("export", "As the server lists it, beginning with “/”.");
    }
    Location::Nfs(NfsLocation {
        address: needed(fields, problems, "address", "The address"),
        export,
        folder: inner(fields, problems, "folder"),
        uid: number(fields, problems, "uid", 0),
        gid: number(fields, problems, "gid", 0),
        port: fields.number("port"),
        mount_port: None,
    })
}

fn s3(fields: &Fields, problems: &mut Problems) -> Location {
    let endpoint = needed(fields, problems, "endpoint", "The address");
    if !endpoint.is_empty() && !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
        problems.add("endpoint", "An address that begins with “https://”.");
    }
    let days = number(fields, problems, "lock_days", 0);
    if days > LOCK_DAYS_MAX {
        problems.add("lock_days", format!("At most {LOCK_DAYS_MAX} days."));
    }
    let mode = match fields.get("lock_mode") {
        "compliance" => RetentionMode::Compliance,
        _ => RetentionMode::Governance,
    };
    let region = fields.get("region");
    let ca_pem = fields.get("ca_pem");
    if !ca_pem.is_empty() && !ca_pem.contains("-----BEGIN CERTIFICATE-----") {
        problems.add("ca_pem", "A certificate in PEM form.");
    }
    Location::S3(S3Location {
        endpoint,
        region: if region.is_empty() { "us-east-1".to_owned() } else { region.to_owned() },
        bucket: needed(fields, problems, "bucket", "The bucket"),
        prefix: inner(fields, problems, "prefix"),
        access_key: needed(fields, problems, "access_key", "The access key"),
        path_style: !fields.has("host_style"),
        ca_pem: (!ca_pem.is_empty()).then(|| ca_pem.to_owned()),
        object_lock: (days > 0).then_some(Retention { days, mode }),
    })
}

impl New {
    /// Address of the same page for another kind.
    fn of(&self, kind: &str) -> String {
        match self.draft {
            Some(draft) => format!("/storage/new?kind={kind}&draft={draft}"),
            None => format!("/storage/new?kind={kind}"),
        }
    }

    fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    fn value(&self, field: &str) -> &str {
        self.answers.get(field)
    }
}

impl Made {
    fn action(&self) -> &str {
        self.next.split('?').next().unwrap_or_default()
    }

    /// The query as fields: a form of method GET drops its action's query.
    fn fields(&self) -> Vec<(String, String)> {
        let query = self.next.split_once('?').map_or("", |(_, query)| query);
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }
}
