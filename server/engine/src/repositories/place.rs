//! Checks of a folder that an administrator names for a repository: the one place where a path comes from a client.
//!
//! Owns: which folders may be used. Must never: follow a link out of what was checked, or touch anything in the folder.

use domain::job::JobError;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Longest path, in bytes; leaves room for object names below the system's 4096.
const PATH_BYTES_MAX: usize = 3500;
/// Folders of the system itself: nothing of ours belongs into them.
const SYSTEM_FOLDERS: [&str; 12] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr"];

const HINT: &str = "Give the full path of a folder on a disk or mounted share, e.g. /srv/backup/stillframe.";

fn refuse(path: &str, why: impl Into<String>) -> JobError {
    JobError::fail("repository.folder", format!("The folder “{path}” cannot hold a repository."), why, HINT)
}

/// The folder to use, with links resolved as far as it exists. `data_dir` is the server's own folder.
pub fn check_folder(input: &str, data_dir: &Path) -> Result<PathBuf, JobError> {
    let shown: String = input.chars().take(200).collect();
    let path = lexical(input, &shown)?;
    let resolved = resolve_existing(&path).map_err(|error| refuse(&shown, error.to_string()))?;
    let data_dir = resolve_existing(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    for candidate in [&path, &resolved] {
        if candidate.parent().is_none() {
            return Err(refuse(&shown, "It is the root of the file system."));
        }
        if let Some(system) = SYSTEM_FOLDERS.iter().find(|folder| candidate.starts_with(folder)) {
            return Err(refuse(&shown, format!("{system} belongs to the operating system.")));
        }
        if candidate.starts_with(&data_dir) || data_dir.starts_with(candidate) {
            return Err(refuse(&shown, "It overlaps the server's own data folder."));
        }
    }
    Ok(resolved)
}

/// Makes the folder if it is missing and proves that it can be written to.
pub fn prepare_folder(path: &Path) -> Result<(), JobError> {
    let shown = path.display().to_string();
    std::fs::create_dir_all(path).map_err(|error| refuse(&shown, format!("It cannot be made: {error}.")))?;
    let probe = tempfile::Builder::new().prefix(".stillframe-probe-").tempfile_in(path);
    probe.map(drop).map_err(|error| refuse(&shown, format!("It cannot be written to: {error}.")))
}

fn lexical(input: &str, shown: &str) -> Result<PathBuf, JobError> {
    if input.is_empty() || input.len() > PATH_BYTES_MAX {
        return Err(refuse(shown, "The path is empty or too long."));
    }
    if input.chars().any(char::is_control) {
        return Err(refuse(shown, "The path holds a control character."));
    }
    let path = Path::new(input);
    if !path.is_absolute() {
        return Err(refuse(shown, "The path does not start at the root, with “/”."));
    }
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(refuse(shown, "The path holds “..”."));
    }
    Ok(path.components().collect())
}

/// Resolves the links of the longest part that exists; the rest cannot hold a link.
fn resolve_existing(path: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match existing.canonicalize() {
            Ok(resolved) => return Ok(missing.iter().rev().fold(resolved, |path, name| path.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A dangling link is found by lstat: nothing may be made through it.
                if existing.symlink_metadata().is_ok() {
                    return Err(io::Error::other("a part of the path is a link that leads nowhere"));
                }
                let (Some(name), Some(parent)) = (existing.file_name(), existing.parent()) else { return Err(error) };
                missing.push(name.to_owned());
                existing = parent;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(input: &str, data_dir: &Path) -> String {
        check_folder(input, data_dir).unwrap_err().why
    }

    #[test]
    fn folders_that_must_not_be_used_are_refused_with_the_reason() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        std::fs::create_dir(&data).unwrap();
        assert!(why("", &data).contains("empty"));
        assert!(why("backup", &data).contains("root, with"));
        assert!(why("/srv/../etc/x", &data).contains("“..”"));
        assert!(why("/srv/a\nb", &data).contains("control"));
        assert!(why("/", &data).contains("root of"));
        assert!(why("/proc/1", &data).contains("operating system"));
        assert!(why(data.join("repo").to_str().unwrap(), &data).contains("own data folder"));
        assert!(why(home.path().to_str().unwrap(), &data).contains("own data folder"));
    }

    #[test]
    fn links_are_resolved_before_the_rules_apply() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        assert!(why(link.join("repo").to_str().unwrap(), &data).contains("own data folder"));
        let dangling = home.path().join("dangling");
        std::os::unix::fs::symlink("/nowhere/at/all", &dangling).unwrap();
        assert!(why(dangling.join("repo").to_str().unwrap(), &data).contains("leads nowhere"));
    }

    #[test]
    fn a_new_folder_is_made_and_probed() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let wanted = home.path().join("a/./b/");
        let folder = check_folder(wanted.to_str().unwrap(), &data).unwrap();
        assert_eq!(folder, home.path().canonicalize().unwrap().join("a/b"));
        prepare_folder(&folder).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "the probe is gone");
        std::fs::write(home.path().join("file"), b"").unwrap();
        let error = prepare_folder(&home.path().join("file")).unwrap_err();
        assert_eq!(error.code, "repository.folder");
    }
}
