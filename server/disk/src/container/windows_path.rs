//! Paths as Windows writes them into its images, taken apart on a machine that is none.

/// Longest path Windows takes, in characters.
pub(super) const PATH_CHARS_MAX: usize = 32_767;

/// A path as the share's side wants it: without the `\\?\` prefix, except for volume paths, which have no other form.
pub(super) fn plain(path: &str) -> String {
    let path = path.replace('/', "\\");
    match path.strip_prefix(r"\\?\") {
        Some(rest) if starts_with_ignoring_case(rest, r"UNC\") => format!(r"\\{}", rest.get(4..).unwrap_or("")),
        Some(rest) if !starts_with_ignoring_case(rest, "Volume{") => rest.to_owned(),
        _ => path,
    }
}

/// `relative` as seen from the folder of the file `from`; `None` when it climbs out of the root.
pub(super) fn beside(from: &str, relative: &str) -> Option<String> {
    let from = plain(from);
    let relative = relative.replace('/', "\\");
    let root = root_length(&from);
    let (root, folder) = from.split_at_checked(root)?;
    let mut parts: Vec<&str> = folder.split('\\').filter(|part| !part.is_empty()).collect();
    parts.pop();
    for part in relative.split('\\') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    if parts.is_empty() { None } else { Some(format!("{root}{}", parts.join("\\"))) }
}

/// Bytes of the part that `..` never leaves: `C:\`, `\\server\share\`, `\\?\Volume{…}\`.
fn root_length(path: &str) -> usize {
    let separators_in_root = match path {
        unc if unc.starts_with(r"\\") => 4,
        _ => 1,
    };
    let separators = path.match_indices('\\').map(|(at, _)| at + 1);
    separators.take(separators_in_root).last().unwrap_or(0)
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_fall_where_there_is_another_form() {
        assert_eq!(plain(r"\\?\d:\vm\a.vhdx"), r"d:\vm\a.vhdx");
        assert_eq!(plain(r"\\?\UNC\nas\share\a.vhdx"), r"\\nas\share\a.vhdx");
        assert_eq!(plain(r"\\?\Volume{26A2}\a.vhdx"), r"\\?\Volume{26A2}\a.vhdx");
        assert_eq!(plain("C:/vm/a.vhdx"), r"C:\vm\a.vhdx");
    }

    #[test]
    fn a_relative_path_starts_at_the_childs_folder() {
        let child = r"C:\vm\snap\child.avhdx";
        assert_eq!(beside(child, r".\base.vhdx").as_deref(), Some(r"C:\vm\snap\base.vhdx"));
        assert_eq!(beside(child, "base.vhdx").as_deref(), Some(r"C:\vm\snap\base.vhdx"));
        assert_eq!(beside(child, r"..\..\other\base.vhdx").as_deref(), Some(r"C:\other\base.vhdx"));
        assert_eq!(beside(child, r"..\..\..\base.vhdx"), None);
        assert_eq!(beside(r"\\nas\share\vm\c.avhdx", r"..\b.vhdx").as_deref(), Some(r"\\nas\share\b.vhdx"));
        assert_eq!(beside(r"\\nas\share\vm\c.avhdx", r"..\..\b.vhdx"), None);
        assert_eq!(beside(r"\\?\Volume{26A2}\c.avhdx", "b.vhdx").as_deref(), Some(r"\\?\Volume{26A2}\b.vhdx"));
        assert_eq!(beside("", ""), None);
    }
}
