//! The host's drive `C:` as a folder: Windows paths to files and back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Longest path, in characters.
const PATH_CHARACTERS_MAX: usize = 1024;

/// A drive.
#[derive(Debug, Clone)]
pub struct Drive {
    root: PathBuf,
}

impl Drive {
    /// The drive in a folder, which has to exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that a path like `C:\VMs\web.vhdx` (or `\\?\C:\VMs\web.vhdx`) names, whatever its case. What does not exist
    /// keeps the case of the path.
    pub fn file(&self, path: &str) -> io::Result<PathBuf> {
        let mut file = self.root.clone();
        for name in names(path)? {
            file = match existing(&file, name) {
                Some(found) => found,
                None => file.join(name),
            };
        }
        Ok(file)
    }

    /// The Windows path of a file of the drive.
    pub fn path(&self, file: &Path) -> Option<String> {
        let names: Option<Vec<&str>> = file.strip_prefix(&self.root).ok()?.iter().map(|name| name.to_str()).collect();
        Some(format!("C:\\{}", names?.join("\\")))
    }
}

/// The names of a path, each one that Windows would allow.
fn names(path: &str) -> io::Result<Vec<&str>> {
    let refuse = || io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is no path on drive C:"));
    let local = path.strip_prefix(r"\\?\").unwrap_or(path);
    let local = local.strip_prefix("C:\\").or_else(|| local.strip_prefix("c:\\")).ok_or_else(refuse)?;
    let names: Vec<&str> = local.split('\\').collect();
    let good = |name: &&str| {
        let forbidden = |c: char| c.is_control() || "<>:\"/|?*".contains(c);
        !name.is_empty() && !name.ends_with(['.', ' ']) && !name.contains(forbidden)
    };
    if path.chars().count() > PATH_CHARACTERS_MAX || !names.iter().all(good) {
        return Err(refuse());
    }
    Ok(names)
}

fn existing(folder: &Path, name: &str) -> Option<PathBuf> {
    let exact = folder.join(name);
    if exact.exists() {
        return Some(exact);
    }
    let wanted = name.to_lowercase();
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    entries.find(|entry| entry.file_name().to_string_lossy().to_lowercase() == wanted).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_any_case_and_never_leave_the_drive() {
        let folder = tempfile::tempdir().unwrap();
        let drive = Drive::new(folder.path().to_owned());
        fs::create_dir(folder.path().join("VMs")).unwrap();
        fs::write(folder.path().join("VMs/Web.vhdx"), "").unwrap();
        let file = drive.file(r"\\?\c:\vms\wEB.VHDX").unwrap();
        assert_eq!(file, folder.path().join("VMs/Web.vhdx"));
        assert_eq!(drive.path(&file).unwrap(), r"C:\VMs\Web.vhdx");
        assert_eq!(drive.file(r"C:\vms\new.vhdx").unwrap(), folder.path().join("VMs/new.vhdx"));
        for bad in [r"C:\..\x", r"D:\x", r"C:\a/b", r"C:\", r"C:\a\\b", r"\\server\share\x", r"C:\nul.", "C:\\a\0"] {
            assert!(drive.file(bad).is_err(), "{bad}");
        }
    }
}
