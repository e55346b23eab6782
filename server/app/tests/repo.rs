//! `stillframe repo` on the fixture repository and on one it makes.

#[path = "../src/repo/mod.rs"]
#[allow(dead_code)] // `run` prints for people; `execute` is the same with its output in hand
mod repo;

use clap::Parser;
use std::error::Error;
use std::path::{Path, PathBuf};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    command: repo::RepoCommand,
}

const POINT: &str = "00000000-0000-0000-0000-000000000002";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/repository-v1/repository")
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new(passphrase: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("passphrase"), format!("{passphrase}\n")).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    async fn run(&self, path: &Path, words: &[&str]) -> Result<String, repo::RepoError> {
        let (verb, rest) = words.split_first().unwrap();
        let file = self.path("passphrase");
        let path = path.display().to_string();
        let line = ["repo", verb, "--path", &path, "--passphrase-file", &file];
        let cli = Cli::try_parse_from(line.iter().chain(rest)).unwrap();
        let mut out = Vec::new();
        repo::execute(cli.command, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    }
}

#[tokio::test]
async fn the_fixture_is_listed_shown_verified_and_restored() {
    let scratch = Scratch::new("correct horse battery staple");
    let list = scratch.run(&fixture(), &["list"]).await.unwrap();
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains(POINT) && list.contains("web-01") && list.contains("incremental"), "{list}");
    let json: serde_json::Value =
        serde_json::from_str(&scratch.run(&fixture(), &["list", "--json"]).await.unwrap()).unwrap();
    assert_eq!(json["points"][1]["id"], POINT);
    let show = scratch.run(&fixture(), &["show", "--point", POINT]).await.unwrap();
    assert!(show.contains("Machine web-01") && show.contains("Disk 2001: Hard disk 2"), "{show}");
    let json: serde_json::Value =
        serde_json::from_str(&scratch.run(&fixture(), &["show", "--point", POINT, "--json"]).await.unwrap()).unwrap();
    let size = json["disks"][0]["size_bytes"].as_u64().unwrap();
    let verify = scratch.run(&fixture(), &["verify"]).await.unwrap();
    assert!(verify.contains("All is well."), "{verify}");
    let output = scratch.path("disk.raw");
    let words = ["restore", "--point", POINT, "--disk", "2000", "--output", &output];
    scratch.run(&fixture(), &words).await.unwrap();
    let image = std::fs::read(&output).unwrap();
    assert_eq!(image.len() as u64, size);
    assert_eq!(image[20_000..20_100], [0xab; 100]);
    // A second time it would overwrite.
    let again = scratch.run(&fixture(), &words).await.unwrap_err();
    assert_eq!(again.source().unwrap().to_string(), "File exists (os error 17)");
    assert!(std::fs::read(&output).unwrap() == image);
}

#[tokio::test]
async fn a_new_repository_opens_by_the_key_it_printed() {
    let scratch = Scratch::new("at least eight");
    let path = PathBuf::from(scratch.path("new"));
    let printed = scratch.run(&path, &["init"]).await.unwrap();
    let key = printed.lines().find(|line| line.starts_with("    ")).unwrap().trim().to_owned();
    assert_eq!(scratch.run(&path, &["list"]).await.unwrap(), "No restore points.\n");
    let by_key = Scratch::new(&key);
    assert_eq!(by_key.run(&path, &["list"]).await.unwrap(), "No restore points.\n");
    let wrong = Scratch::new("something else").run(&path, &["list"]).await.unwrap_err();
    assert!(wrong.to_string().contains("passphrase does not open"), "{wrong}");
    let again = scratch.run(&path, &["init"]).await.unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");
}

#[tokio::test]
async fn refusals_say_why() {
    let scratch = Scratch::new("short");
    let refused = scratch.run(Path::new(&scratch.path("new")), &["init"]).await.unwrap_err();
    assert!(refused.to_string().contains("at least 8 characters"), "{refused}");
    assert!(!Path::new(&scratch.path("new")).exists());
    let refused = scratch.run(Path::new(&scratch.path("nowhere")), &["list"]).await.unwrap_err();
    assert!(refused.to_string().contains("not found"), "{refused}");
    let scratch = Scratch::new("correct horse battery staple");
    let output = scratch.path("disk.raw");
    let words = ["restore", "--point", POINT, "--disk", "7", "--output", &output];
    let refused = scratch.run(&fixture(), &words).await.unwrap_err();
    assert!(refused.to_string().contains("has no disk 7"), "{refused}");
    assert!(!Path::new(&output).exists());
}
