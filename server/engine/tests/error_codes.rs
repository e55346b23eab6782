//! The list of error codes is documentation that programs rely on: every code in the source is in it, and no other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FAMILIES: [&str; 11] =
    ["job", "notice", "db", "device", "vm", "backup", "restore", "verify", "repository", "host", "schedule"];

#[test]
fn the_list_of_codes_is_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut used = BTreeSet::new();
    for folder in ["server/domain/src", "server/engine/src", "server/hypervisor/src", "server/db/src/jobs"] {
        for file in sources(&root.join(folder)) {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            used.extend(code.split('"').skip(1).step_by(2).filter(|word| is_code(word)).map(str::to_owned));
            used.extend(blockers(code));
        }
    }
    let document = std::fs::read_to_string(root.join("docs/error-codes.md")).unwrap();
    let listed: BTreeSet<String> =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    let missing: Vec<_> = used.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&used).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not in the list: {missing:?}; not in the source: {stale:?}");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// `family.word_of_letters`.
fn is_code(word: &str) -> bool {
    let Some((family, rest)) = word.split_once('.') else { return false };
    (FAMILIES.contains(&family) || ["esxi", "hyperv"].contains(&family))
        && !rest.is_empty()
        && rest.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}

/// Findings that block a backup end a job as `vm.` and their word.
fn blockers(code: &str) -> impl Iterator<Item = String> {
    let starts = ["block(\"", "add(Severity::Blocker, \""];
    starts.into_iter().flat_map(move |start| {
        code.split(start).skip(1).filter_map(|rest| rest.split('"').next()).map(|word| format!("vm.{word}"))
    })
}
