//! From a path as Windows writes it to a share of the host and a path in it.

use super::failure::Failure;
use crate::ErrorKind;

/// Longest path Windows takes, in characters.
const PATH_CHARS_MAX: usize = 32_767;
/// Longest name of a file, folder, share or server, in characters.
const NAME_CHARS_MAX: usize = 255;
/// Characters that no name may have, beside control characters. A colon would name another stream of a file.
const FORBIDDEN: &[char] = &['<', '>', ':', '"', '|', '?', '*', '/', '\\'];

/// A file or folder of the host, as SMB names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SharePath {
    /// Share of the host, e.g. `C$`.
    pub share: String,
    /// Path in the share, parted by backslashes; empty for its root.
    pub path: String,
}

impl SharePath {
    /// Reads a drive path (`C:\vm\disk.vhdx`, also with `\\?\`) or a path on a share of `host` itself.
    pub fn parse(path: &str, host: &str) -> Result<Self, Failure> {
        if path.chars().count() > PATH_CHARS_MAX {
            return Err(refuse(format!("a path of more than {PATH_CHARS_MAX} characters")));
        }
        let path = path.replace('/', "\\");
        let (path, is_unc) = match path.strip_prefix(r"\\?\") {
            Some(rest) => match split_prefix(rest, r"UNC\") {
                Some(rest) => (rest.to_owned(), true),
                None => (rest.to_owned(), false),
            },
            None => match path.strip_prefix(r"\\") {
                Some(rest) => (rest.to_owned(), true),
                None => (path, false),
            },
        };
        if split_prefix(&path, "Volume{").is_some() {
            return Err(refuse("the volume has no drive letter, and only volumes with one are shared by the host"));
        }
        if is_unc { Self::of_unc(&path, host) } else { Self::of_drive(&path) }
    }

    fn of_drive(path: &str) -> Result<Self, Failure> {
        let (drive, rest) = path.split_once(':').ok_or_else(|| refuse("this is no path with a drive letter"))?;
        let mut letters = drive.chars();
        let (Some(letter), None) = (letters.next().filter(char::is_ascii_alphabetic), letters.next()) else {
            return Err(refuse("this is no path with a drive letter"));
        };
        let rest = rest.strip_prefix('\\').ok_or_else(|| refuse("the path does not begin at the root of its drive"))?;
        Ok(Self { share: format!("{}$", letter.to_ascii_uppercase()), path: checked(rest)? })
    }

    fn of_unc(path: &str, host: &str) -> Result<Self, Failure> {
        let mut parts = path.splitn(3, '\\');
        let (server, share, rest) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
        let (Some(server), Some(share)) = (server.filter(|name| !name.is_empty()), share) else {
            return Err(refuse("the path names no server and share"));
        };
        if server == "." || !is_name(share) {
            return Err(refuse("this is a path of a device or a malformed share"));
        }
        let first_label = |name: &str| name.split('.').next().unwrap_or_default().to_lowercase();
        let is_host = server.eq_ignore_ascii_case(host)
            || (first_label(server) == first_label(host) && host.parse::<std::net::IpAddr>().is_err());
        if !is_host {
            return Err(refuse(format!("the file lies on the server {server:.60}, not on the host itself")));
        }
        Ok(Self { share: share.to_owned(), path: checked(rest)? })
    }

    /// The folders above it, the outermost first, without the root.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.path.match_indices('\\').filter_map(|(at, _)| self.path.get(..at))
    }

    /// On a volume that the nodes of a cluster share.
    pub fn is_clustered(&self) -> bool {
        split_prefix(&self.path, r"ClusterStorage\").is_some()
    }
}

/// The same, without its root's backslashes; fails on names that Windows does not take, `.` and `..`.
fn checked(path: &str) -> Result<String, Failure> {
    let path = path.trim_end_matches('\\');
    if path.is_empty() || path.split('\\').all(is_name) {
        return Ok(path.to_owned());
    }
    Err(refuse("a part of the path is no name of a file or folder"))
}

fn is_name(name: &str) -> bool {
    let good = |c: char| !c.is_control() && !FORBIDDEN.contains(&c);
    !name.is_empty() && name != "." && name != ".." && name.chars().count() <= NAME_CHARS_MAX && name.chars().all(good)
}

fn split_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn refuse(text: impl Into<String>) -> Failure {
    let hint = "Move the disk to a volume of the host that has a drive letter, or below C:\\ClusterStorage.";
    Failure::new(ErrorKind::Unsupported, "hyperv.path", text).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(path: &str) -> Option<(String, String)> {
        SharePath::parse(path, "hv1.example.org").ok().map(|found| (found.share, found.path))
    }

    fn found(share: &str, path: &str) -> (String, String) {
        (share.to_owned(), path.to_owned())
    }

    #[test]
    fn drives_become_administrative_shares() {
        assert_eq!(parse(r"C:\vm\disk.vhdx"), Some(found("C$", r"vm\disk.vhdx")));
        assert_eq!(parse(r"\\?\d:\vm\disk 1.avhdx"), Some(found("D$", r"vm\disk 1.avhdx")));
        assert_eq!(parse("e:/vm/x.vhdx"), Some(found("E$", r"vm\x.vhdx")));
        assert_eq!(parse(r"C:\"), Some(found("C$", "")));
        assert_eq!(parse(r"C:\ClusterStorage\Volume1\x.vhdx"), Some(found("C$", r"ClusterStorage\Volume1\x.vhdx")));
        assert!(SharePath::parse(r"C:\clusterstorage\Volume1\x", "h").is_ok_and(|path| path.is_clustered()));
    }

    #[test]
    fn shares_of_the_host_itself_are_taken_and_others_are_not() {
        assert_eq!(parse(r"\\HV1\vms\x.vhdx"), Some(found("vms", "x.vhdx")));
        assert_eq!(parse(r"\\?\UNC\hv1.example.org\D$\a\b"), Some(found("D$", r"a\b")));
        assert_eq!(parse(r"\\nas\vms\x.vhdx"), None);
        let refused = SharePath::parse(r"\\10.0.0.2\vms\x", "10.0.0.1").map_err(|failure| failure.to_string());
        assert!(refused.is_err_and(|text| text.contains("10.0.0.2")));
    }

    #[test]
    fn what_has_no_share_is_refused() {
        for path in [
            "",
            "x.vhdx",
            r"C:x.vhdx",
            r"CD:\x",
            r"1:\x",
            r"C:\a\..\b",
            r"C:\a\\b",
            r"C:\a:b",
            r"C:\a\b*",
            r"\\?\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\x.vhdx",
            r"\\.\PhysicalDrive0",
            r"\\hv1",
            "\\\\",
            "C:\\a\u{0}b",
            r"\\?\GLOBALROOT\x",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
        assert_eq!(parse(&format!(r"C:\{}", "x".repeat(256))), None);
        assert_eq!(parse(&format!(r"C:\{}", r"x\".repeat(20_000))), None);
    }

    #[test]
    fn folders_come_outermost_first() {
        let path = SharePath { share: "C$".into(), path: r"a\b\c.vhdx".into() };
        assert_eq!(path.folders().collect::<Vec<_>>(), ["a", r"a\b"]);
    }

    proptest! {
        #[test]
        fn nothing_leaves_its_share(path in r"(\\\\\?\\|\\\\)?([a-zA-Z]:)?[a-c.:/\\\\?*$é]{0,20}") {
            if let Ok(found) = SharePath::parse(&path, "a") {
                let is_good = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains([':', '*']);
                prop_assert!(is_good(&found.share) && !found.share.contains('\\'));
                prop_assert!(found.path.is_empty() || found.path.split('\\').all(is_good));
            }
        }
    }
}
