//! Where programs are.

use std::path::PathBuf;

/// The repository's root.
pub fn repository_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// The folder cargo builds into, e.g. `target`.
pub fn build_folder() -> PathBuf {
    // target/debug/deps/it-0123 → target
    let exe = std::env::current_exe().expect("a test knows its own path");
    exe.ancestors().nth(3).expect("tests lie in target/PROFILE/deps").to_owned()
}

/// The binary under test, built with the tests (`cargo build --workspace --bins --tests`).
pub fn stillframe() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let path = std::env::var_os("STILLFRAME_BIN").map_or_else(
        || exe.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").join("stillframe"),
        PathBuf::from,
    );
    assert!(path.exists(), "{} is missing: run `cargo build -p app` first", path.display());
    path
}

/// Python with the packages of the peers.
pub fn python() -> PathBuf {
    let path = repository_root().join(".tools/venv/bin/python");
    assert!(path.exists(), "{} is missing: run `scripts/install.sh test` first", path.display());
    path
}

/// The built vcsim peer.
pub fn vcsim() -> PathBuf {
    let found = build_folder().join("peers/vcsim");
    assert!(found.is_file(), "{} is missing: run scripts/build-vcsim.sh, or `make test`", found.display());
    found
}
