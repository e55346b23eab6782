//! Where a repository lies, as the command line says it: a folder, or the address of a share, an export or a bucket.
//! Must never: take a secret from an argument, which other users of the machine could see, or repeat one in an error.

use clap::Args;
use repository::{
    BackendError, BackendErrorKind, Location, LocationSecret, NfsLocation, ObjectBackend, Retention, RetentionMode,
    S3Location, SmbEncryption, SmbLocation,
};
use rustix::termios::isatty;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::RepoError;
use super::passphrase::{PassphraseSource, prompt};

/// Holds the password of a share or the secret key of a bucket.
const SECRET_VARIABLE: &str = "STILLFRAME_LOCATION_SECRET";
/// Longest file of certificates.
const CA_BYTES_MAX: u64 = 1 << 20;
/// Most parts of a path on an NFS server.
const NFS_PARTS_MAX: usize = 32;
const SMB_PORT: u16 = 445;
const HEADING: &str = "Location";

/// A repository's location and its passphrase.
#[derive(Debug, Args)]
pub struct Place {
    #[command(flatten)]
    pub location: LocationArgs,
    #[command(flatten)]
    pub passphrase: PassphraseSource,
}

/// The password of a share and the secret key of a bucket come from `STILLFRAME_LOCATION_SECRET`, else they are asked for.
#[derive(Debug, Args)]
pub struct LocationArgs {
    /// The repository's folder; short for --location FOLDER
    #[arg(
        long,
        value_name = "FOLDER",
        required_unless_present = "location",
        conflicts_with = "location",
        help_heading = HEADING
    )]
    path: Option<PathBuf>,
    /// Without its secret.
    #[arg(
        long,
        value_name = "ADDRESS",
        help_heading = HEADING,
        help = "A folder, smb://ACCOUNT@HOST/SHARE/FOLDER, nfs://HOST/EXPORT/FOLDER or s3://BUCKET/PREFIX. The share's \
                password or the bucket's secret key comes from STILLFRAME_LOCATION_SECRET, or is asked for"
    )]
    location: Option<String>,
    #[command(flatten)]
    smb: SmbArgs,
    #[command(flatten)]
    nfs: NfsArgs,
    #[command(flatten)]
    s3: S3Args,
}

#[derive(Debug, Args)]
struct SmbArgs {
    /// SMB: domain of the account
    #[arg(long, help_heading = HEADING)]
    domain: Option<String>,
    /// SMB: refuse a session that is not encrypted
    #[arg(long, help_heading = HEADING)]
    encrypt: bool,
}

#[derive(Debug, Args)]
struct NfsArgs {
    /// NFS: user the server is told [default: 0]
    #[arg(long, help_heading = HEADING)]
    uid: Option<u32>,
    /// NFS: group the server is told [default: 0]
    #[arg(long, help_heading = HEADING)]
    gid: Option<u32>,
    /// NFS: port of the mount service; the port of NFS stands after the host [default: what the port mapper says]
    #[arg(long, value_name = "PORT", help_heading = HEADING)]
    mount_port: Option<u16>,
}

#[derive(Debug, Args)]
struct S3Args {
    /// S3: address of the storage, such as `https://HOST:PORT`
    #[arg(long, value_name = "ADDRESS", help_heading = HEADING)]
    endpoint: Option<String>,
    /// S3: the access key's id
    #[arg(long, value_name = "ID", env = "STILLFRAME_ACCESS_KEY", help_heading = HEADING)]
    access_key: Option<String>,
    /// S3: region [default: us-east-1]
    #[arg(long, help_heading = HEADING)]
    region: Option<String>,
    /// S3: the bucket goes into the host name, not into the path
    #[arg(long, help_heading = HEADING)]
    host_style: bool,
    /// S3: file of the only authorities trusted for its certificate, PEM
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    ca_file: Option<PathBuf>,
    /// S3: lock what is written for so many days; must be as the repository was made
    #[arg(long, value_name = "DAYS", help_heading = HEADING)]
    lock_days: Option<u32>,
    /// S3: nobody can lift a lock before its end, not even with a special permission
    #[arg(long, requires = "lock_days", help_heading = HEADING)]
    lock_compliance: bool,
}

impl LocationArgs {
    /// The location that is there.
    pub async fn open(&self) -> Result<Arc<dyn ObjectBackend>, RepoError> {
        self.backend(false).await
    }

    /// An empty location for a new repository.
    pub async fn create(&self) -> Result<Arc<dyn ObjectBackend>, RepoError> {
        self.backend(true).await
    }

    async fn backend(&self, create: bool) -> Result<Arc<dyn ObjectBackend>, RepoError> {
        let location = match self.location()? {
            Location::Nfs(nfs) => Location::Nfs(find_export(&nfs).await?),
            other => other,
        };
        let secret = match &location {
            Location::Smb(smb) => Some(secret(&format!("Password of {} on {}: ", smb.account, smb.address))?),
            Location::S3(s3) => Some(secret(&format!("Secret key of {}: ", s3.access_key))?),
            _ => None,
        };
        let secret = secret.as_ref();
        Ok(if create { location.create(secret).await? } else { location.open(secret).await? })
    }

    /// The location; of an NFS server all of the path is taken for the export.
    fn location(&self) -> Result<Location, RepoError> {
        let address = self.location.as_deref().unwrap_or_default();
        let Some((scheme, rest)) = address.split_once("://") else {
            let is_slip = |start: &&str| address.starts_with(*start);
            if ["//", "\\\\", "smb:", "nfs:", "s3:"].iter().any(is_slip) {
                let text = "--location: give smb://ACCOUNT@HOST/SHARE, nfs://HOST/EXPORT, s3://BUCKET or a folder";
                return Err(refused(text.to_owned()));
            }
            self.check_options("a folder")?;
            let path = self.path.clone().unwrap_or_else(|| PathBuf::from(address));
            return Ok(Location::Folder { path });
        };
        match scheme.to_ascii_lowercase().as_str() {
            "smb" => self.smb(rest),
            "nfs" => self.nfs(rest),
            "s3" => self.s3(rest),
            _ => Err(refused(format!(
                "--location: {scheme}:// is no storage this program knows; give a folder, smb://, nfs:// or s3://"
            ))),
        }
    }

    /// Options of another kind of storage are a mistake that must not be passed over.
    fn check_options(&self, kind: &str) -> Result<(), RepoError> {
        let (smb, nfs, s3) = (&self.smb, &self.nfs, &self.s3);
        let given = [
            ("smb", "--domain", smb.domain.is_some()),
            ("smb", "--encrypt", smb.encrypt),
            ("nfs", "--uid", nfs.uid.is_some()),
            ("nfs", "--gid", nfs.gid.is_some()),
            ("nfs", "--mount-port", nfs.mount_port.is_some()),
            ("s3", "--endpoint", s3.endpoint.is_some()),
            ("s3", "--region", s3.region.is_some()),
            ("s3", "--host-style", s3.host_style),
            ("s3", "--ca-file", s3.ca_file.is_some()),
            ("s3", "--lock-days", s3.lock_days.is_some()),
        ];
        match given.iter().find(|(of, _, is_given)| *is_given && *of != kind) {
            Some((of, option, _)) => {
                Err(refused(format!("{option} is for {of}:// addresses, and the location is {kind}")))
            }
            None => Ok(()),
        }
    }

    fn smb(&self, rest: &str) -> Result<Location, RepoError> {
        self.check_options("smb")?;
        let malformed = || refused("--location: an SMB share is given as smb://ACCOUNT@HOST/SHARE/FOLDER".to_owned());
        let (authority, path) = rest.split_once('/').ok_or_else(malformed)?;
        let (account, host) = authority.rsplit_once('@').ok_or_else(malformed)?;
        if account.contains(':') {
            let text = format!(
                "--location: a password does not belong on the command line, where others can see it; change it, put it \
                 into {SECRET_VARIABLE} or enter it when asked"
            );
            return Err(refused(text));
        }
        let (address, port) = host_and_port(host)?;
        let (share, folder) = path.split_once('/').unwrap_or((path, ""));
        if account.is_empty() || share.is_empty() {
            return Err(malformed());
        }
        Ok(Location::Smb(SmbLocation {
            address,
            port: port.unwrap_or(SMB_PORT),
            share: share.to_owned(),
            folder: folder.trim_matches('/').to_owned(),
            account: account.to_owned(),
            domain: self.smb.domain.clone().unwrap_or_default(),
            encryption: if self.smb.encrypt { SmbEncryption::Required } else { SmbEncryption::Auto },
        }))
    }

    fn nfs(&self, rest: &str) -> Result<Location, RepoError> {
        self.check_options("nfs")?;
        let shape = || refused("--location: an NFS export is given as nfs://HOST/EXPORT/FOLDER".to_owned());
        let (authority, path) = rest.split_once('/').ok_or_else(shape)?;
        let (address, port) = host_and_port(authority)?;
        let path = path.trim_matches('/');
        if path.is_empty() || path.split('/').count() > NFS_PARTS_MAX {
            return Err(shape());
        }
        Ok(Location::Nfs(NfsLocation {
            address,
            export: format!("/{path}"),
            folder: String::new(),
            uid: self.nfs.uid.unwrap_or_default(),
            gid: self.nfs.gid.unwrap_or_default(),
            port,
            mount_port: self.nfs.mount_port,
        }))
    }

    fn s3(&self, rest: &str) -> Result<Location, RepoError> {
        self.check_options("s3")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains(['@', ':']) {
            return Err(refused("--location: a bucket is given as s3://BUCKET/PREFIX, with --endpoint".to_owned()));
        }
        let given = |value: Option<&String>, option: &str, what: &str| {
            let missing = || refused(format!("{option} is missing: {what}"));
            value.filter(|value| !value.is_empty()).cloned().ok_or_else(missing)
        };
        let options = &self.s3;
        let endpoint =
            given(options.endpoint.as_ref(), "--endpoint", "the storage's address, such as https://s3.example.org")?;
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") || endpoint.contains('@') {
            return Err(refused(
                "--endpoint: the storage's address is given as https://HOST or https://HOST:PORT".to_owned(),
            ));
        }
        let mode = if options.lock_compliance { RetentionMode::Compliance } else { RetentionMode::Governance };
        Ok(Location::S3(S3Location {
            endpoint,
            region: options.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            access_key: given(options.access_key.as_ref(), "--access-key", "the id that belongs to the secret key")?,
            path_style: !options.host_style,
            ca_pem: options.ca_file.as_deref().map(certificates).transpose()?,
            object_lock: options.lock_days.map(|days| Retention { days, mode }),
        }))
    }
}

fn refused(text: String) -> RepoError {
    RepoError::Refused(text)
}

/// Which part of a path is the export, only the server knows; some mount folders in their exports as well. The whole path is
/// tried first, then what is before its last part, and so on: whatever mounts, the rest leads to the same folder.
async fn find_export(whole: &NfsLocation) -> Result<NfsLocation, RepoError> {
    let mut refusal: Option<BackendError> = None;
    let ends = whole.export.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([whole.export.len()]);
    for (export, folder) in ends.collect::<Vec<_>>().into_iter().rev().map(|at| whole.export.split_at(at)) {
        let location = NfsLocation { export: export.to_owned(), ..whole.clone() };
        match Location::Nfs(location.clone()).open(None).await {
            Ok(_) => return Ok(NfsLocation { folder: folder.trim_matches('/').to_owned(), ..location }),
            Err(error) if !is_no_export(error.kind) => return Err(error.into()),
            // What says more than that nothing is there is what to tell.
            Err(error) if refusal.as_ref().is_none_or(|first| first.kind == BackendErrorKind::NoLocation) => {
                refusal = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(refusal.map_or_else(|| refused("--location: no export is given".to_owned()), RepoError::from))
}

/// Did the server say that the path is no export of its, in one of the ways in which servers say so?
const fn is_no_export(kind: BackendErrorKind) -> bool {
    matches!(kind, BackendErrorKind::NoLocation | BackendErrorKind::Forbidden | BackendErrorKind::Unauthorized)
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), RepoError> {
    let bad = || refused("--location: a server is given as HOST or HOST:PORT".to_owned());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")).ok_or_else(bad)?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    if host.is_empty() || host.contains(['/', '@']) {
        return Err(bad());
    }
    let port = if port.is_empty() { None } else { Some(port.parse().map_err(|_| bad())?) };
    Ok((host.to_owned(), port))
}

fn certificates(path: &Path) -> Result<String, RepoError> {
    let failed = |source| RepoError::File { doing: "read", path: path.display().to_string(), source };
    if fs::metadata(path).map_err(failed)?.len() > CA_BYTES_MAX {
        return Err(refused(format!("{} is longer than any file of certificates", path.display())));
    }
    fs::read_to_string(path).map_err(failed)
}

/// From the environment, else from the terminal; standard input may be the passphrase.
fn secret(question: &str) -> Result<LocationSecret, RepoError> {
    #[allow(clippy::disallowed_methods)] // the app crate reads the environment
    if let Ok(secret) = std::env::var(SECRET_VARIABLE) {
        return Ok(LocationSecret(secret.into()));
    }
    if isatty(io::stdin()) {
        return prompt(question).map(LocationSecret);
    }
    let what = question.trim_end_matches([':', ' ']).to_lowercase();
    Err(refused(format!("no {what}: set {SECRET_VARIABLE}, or run it on a terminal to be asked")))
}
