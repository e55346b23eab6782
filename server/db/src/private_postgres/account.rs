//! The account Postgres runs under. It refuses to be root, so a server that is root drops to another account, in a
//! thread of its own that ends with its last child started.

use super::error::PostgresError;
use rustix::process::{Gid, Uid, geteuid};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};

/// In this order: the package's own account, then the one that owns nothing.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];
/// Search by everyone.
const OTHERS_SEARCH: u32 = 0o001;
const OTHERS_READ_WRITE: u32 = 0o006;

/// Whom Postgres runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// None: as the server itself.
    other: Option<Other>,
    /// Name of the account the server runs under, which may connect.
    pub server: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Other {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    pub fn choose() -> Result<Self, PostgresError> {
        let server = id(&["-un"]).unwrap_or_else(|| geteuid().as_raw().to_string());
        if !geteuid().is_root() {
            return Ok(Self { other: None, server });
        }
        let other = CANDIDATES.into_iter().find_map(|name| {
            let number = |option| id(&[option, name])?.parse().ok();
            Some(Other { name: name.to_owned(), uid: number("-u")?, gid: number("-g")? })
        });
        Ok(Self { other: Some(other.ok_or(PostgresError::NoAccount)?), server })
    }

    /// Hands a file or folder over to the account.
    pub fn give(&self, path: &Path) -> Result<(), PostgresError> {
        let Some(other) = &self.other else { return Ok(()) };
        rustix::fs::chown(path, Some(Uid::from_raw(other.uid)), Some(Gid::from_raw(other.gid)))
            .map_err(|error| PostgresError::file("cannot hand over", path)(error.into()))
    }

    /// Whether a file is the account's or the server's own.
    pub fn trusts(&self, owner: u32) -> bool {
        owner == geteuid().as_raw() || self.other.as_ref().is_some_and(|other| other.uid == owner)
    }

    /// Makes sure that the account can pass through to `folder`: what lies in `data_dir` is ours to open for search, what
    /// lies above it is not.
    pub fn reach(&self, data_dir: &Path, folder: &Path) -> Result<(), PostgresError> {
        let Some(other) = &self.other else { return Ok(()) };
        let read = |path: &Path| std::fs::metadata(path).map_err(PostgresError::file("cannot look at", path));
        for folder in folder.ancestors() {
            let metadata = read(folder)?;
            if metadata.uid() == other.uid || metadata.mode() & OTHERS_SEARCH != 0 {
                continue;
            }
            if !folder.starts_with(data_dir) {
                return Err(PostgresError::Unreachable { account: other.name.clone(), folder: folder.to_owned() });
            }
            let mut permissions = metadata.permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, metadata.mode() | OTHERS_SEARCH);
            std::fs::set_permissions(folder, permissions)
                .map_err(PostgresError::file("cannot open for search", folder))?;
        }
        Ok(())
    }

    /// Starts a program as the account.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let Some(other) = self.other.clone() else { return command.spawn() };
        // Ids are a property of the thread; what it starts inherits them, and it starts nothing else.
        std::thread::spawn(move || {
            let (uid, gid) = (Uid::from_raw(other.uid), Gid::from_raw(other.gid));
            let mut groups = vec![gid];
            groups.extend(null_device_group());
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            command.spawn()
        })
        .join()
        .map_err(|_| io::Error::other("the thread that starts PostgreSQL died"))?
    }
}

/// On some machines /dev/null is closed to others, and initdb fails without its group.
fn null_device_group() -> Option<Gid> {
    let metadata = std::fs::metadata("/dev/null").ok()?;
    (metadata.mode() & OTHERS_READ_WRITE != OTHERS_READ_WRITE).then(|| Gid::from_raw(metadata.gid()))
}

/// Asks `id`, which knows accounts wherever they come from.
fn id(arguments: &[&str]) -> Option<String> {
    let output = Command::new("id").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
