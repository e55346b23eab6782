//! Where `initdb` and `postgres` are.

use super::error::PostgresError;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian and its derivatives keep one folder a major version here.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";
/// Fedora, Arch, Alpine, BSDs.
const OTHER_PLACES: [&str; 3] = ["/usr/bin", "/usr/libexec/postgresql", "/usr/local/bin"];

/// The programs of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    folder: PathBuf,
    version: String,
}

impl Programs {
    /// The installation of major version `wanted`, or the newest there is when that one is not there.
    ///
    /// Looks at Debian's version folders, at what `pg_config` names, at `path` (the value of PATH), and at the usual
    /// places of other systems.
    pub fn find(wanted: Option<&str>, path: Option<&std::ffi::OsStr>) -> Result<Self, PostgresError> {
        let mut folders = debian_folders();
        folders.extend(pg_config_folder());
        folders.extend(path.iter().flat_map(std::env::split_paths));
        folders.extend(OTHER_PLACES.iter().map(PathBuf::from));
        // The real folders, so that a link to one program alone does not hide the others, and each only once.
        let mut real: Vec<PathBuf> = Vec::new();
        for postgres in folders.iter().filter_map(|folder| folder.join("postgres").canonicalize().ok()) {
            let Some(folder) = postgres.parent() else { continue };
            if !real.iter().any(|known| known == folder) {
                real.push(folder.to_owned());
            }
        }
        let found: Vec<Self> = real.into_iter().filter_map(Self::in_folder).collect();
        wanted
            .and_then(|wanted| found.iter().find(|programs| programs.version == wanted))
            .or_else(|| found.iter().max_by_key(|programs| programs.version.parse::<u32>().unwrap_or(0)))
            .cloned()
            .ok_or_else(|| PostgresError::NotInstalled {
                looked: format!("{DEBIAN_VERSIONS}, `pg_config --bindir`, PATH and {}", OTHER_PLACES.join(", ")),
            })
    }

    fn in_folder(folder: PathBuf) -> Option<Self> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let version = major_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { folder, version })
    }

    /// `initdb`.
    pub fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    /// `postgres`.
    pub fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    /// Major version, e.g. `15`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Folder they are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn debian_folders() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(DEBIAN_VERSIONS) else { return Vec::new() };
    entries.filter_map(Result::ok).map(|entry| entry.path().join("bin")).collect()
}

fn pg_config_folder() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// `postgres (PostgreSQL) 15.12 (Debian …)` → `15`.
fn major_version(text: &str) -> Option<String> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let major: String = number.chars().take_while(char::is_ascii_digit).collect();
    Some(major)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgres_prints_them() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)\n").as_deref(), Some("15"));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1").as_deref(), Some("18"));
        assert_eq!(major_version("no number"), None);
    }

    #[test]
    fn an_installation_is_found_and_a_missing_version_gives_the_newest() {
        let newest = Programs::find(None, None).unwrap();
        assert!(newest.initdb().is_file());
        assert_eq!(Programs::find(Some("7"), None).unwrap(), newest);
    }
}
