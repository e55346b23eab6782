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
        let (verb, rest) = words.split_at(if words[0] == "key" { 2 } else { 1 });
        let file = self.path("passphrase");
        let path = path.display().to_string();
        let place = ["--path", &path, "--passphrase-file", &file];
        let cli = Cli::try_parse_from(["repo"].iter().chain(verb).chain(&place).chain(rest)).unwrap();
        let mut out = Vec::new();
        repo::execute(cli.command, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    }
}

#[tokio::test]
async fn the_fixture_is_listed_shown_verified_and_restored() {
    let scratch = Scratch::new("correct horse battery staple");
    let list = scratch.run(&fixture(), &["list"]).await.unwrap();
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.contains("Never verified."), "{list}");
    assert!(list.contains(POINT) && list.contains("web-01") && list.contains("incremental"), "{list}");
    let json: serde_json::Value =
        serde_json::from_str(&scratch.run(&fixture(), &["list", "--json"]).await.unwrap()).unwrap();
    assert_eq!(json["points"][1]["id"], POINT);
    let show = scratch.run(&fixture(), &["show", "--point", POINT]).await.unwrap();
    assert!(show.contains("Machine web-01") && show.contains("Disk 2001: Hard disk 2"), "{show}");
    let json: serde_json::Value =
        serde_json::from_str(&scratch.run(&fixture(), &["show", "--point", POINT, "--json"]).await.unwrap()).unwrap();
    let size = json["disks"][0]["size_bytes"].as_u64().unwrap();
    let verify = scratch.run(&fixture(), &["verify", "--read-only"]).await.unwrap();
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
    let key = printed_key(&printed);
    assert_eq!(scratch.run(&path, &["list"]).await.unwrap(), "No restore points.\n");
    let by_key = Scratch::new(&key);
    assert_eq!(by_key.run(&path, &["list"]).await.unwrap(), "No restore points.\n");
    let wrong = Scratch::new("something else").run(&path, &["list"]).await.unwrap_err();
    assert!(wrong.to_string().contains("passphrase does not open"), "{wrong}");
    let again = scratch.run(&path, &["init"]).await.unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");
}

/// The recovery key in what a command printed.
fn printed_key(output: &str) -> String {
    output.lines().find(|line| line.starts_with("    ")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn keys_are_listed_changed_rotated_and_removed() {
    let scratch = Scratch::new("the first one");
    let path = PathBuf::from(scratch.path("new"));
    let first = Scratch::new(&printed_key(&scratch.run(&path, &["init"]).await.unwrap()));
    let second = Scratch::new("the second one");
    let new = ["--new-passphrase-file", &second.path("passphrase")];
    scratch.run(&path, &[&["key", "change-passphrase"][..], &new].concat()).await.unwrap();
    scratch.run(&path, &["list"]).await.unwrap_err();
    let added =
        Scratch::new(&printed_key(&second.run(&path, &["key", "new-recovery-key", "--keep-old"]).await.unwrap()));
    let list = first.run(&path, &["key", "list"]).await.unwrap();
    assert_eq!(list.lines().count(), 3, "{list}");
    assert_eq!(list.matches("recovery key").count(), 2, "{list}");
    let slots: serde_json::Value =
        serde_json::from_str(&second.run(&path, &["key", "list", "--json"]).await.unwrap()).unwrap();
    let by_passphrase = slots.as_array().unwrap().iter().find(|slot| slot["kind"] == "passphrase").unwrap();
    let slot = ["--slot", by_passphrase["id"].as_str().unwrap()];
    let remove = [&["key", "remove"][..], &slot].concat();
    let refused = second.run(&path, &remove).await.unwrap_err();
    assert!(refused.to_string().contains("the one that opened"), "{refused}");
    added.run(&path, &remove).await.unwrap();
    let gone = second.run(&path, &["list"]).await.unwrap_err();
    assert!(gone.to_string().contains("no key slot for a passphrase"), "{gone}");
    // By a recovery key, so a new passphrase is needed.
    let third = Scratch::new("the third one");
    let new = ["--new-passphrase-file", &third.path("passphrase")];
    let rotated = first.run(&path, &[&["key", "rotate"][..], &new].concat()).await.unwrap();
    let newest = Scratch::new(&printed_key(&rotated));
    added.run(&path, &["list"]).await.unwrap_err();
    for opens in [&third, &newest] {
        let list = opens.run(&path, &["key", "list"]).await.unwrap();
        assert_eq!(list.matches("generation 1").count(), 2, "{list}");
    }
}

#[tokio::test]
async fn an_empty_server_sees_what_it_would_take_over() {
    let scratch = Scratch::new("correct horse battery staple");
    let shown = scratch.run(&fixture(), &["adopt"]).await.unwrap();
    assert!(shown.contains("web-01 on esxi-a (device-1/vm-1)"), "{shown}");
    assert!(shown.contains(POINT) && shown.contains("disk 2000: Hard disk 1, 64.0 MiB"), "{shown}");
    assert!(shown.contains("Machines: 1. Restore points: 2. Unreadable: 0."), "{shown}");
    let json: serde_json::Value =
        serde_json::from_str(&scratch.run(&fixture(), &["adopt", "--json"]).await.unwrap()).unwrap();
    assert_eq!(json["machines"][0]["points"][1]["id"], POINT);
    assert_eq!(json["machines"][0]["points"][1]["disks"][1]["key"], 2001);
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

#[tokio::test]
async fn an_image_is_backed_up_and_what_changed_in_it() {
    let scratch = Scratch::new("at least eight");
    let path = PathBuf::from(scratch.path("new"));
    scratch.run(&path, &["init"]).await.unwrap();
    let (image, areas) = (scratch.path("vm.raw"), scratch.path("areas"));
    let mut content: Vec<u8> =
        (0..3_000_000_u32).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    content[4 << 20..8 << 20].fill(0);
    std::fs::write(&image, &content).unwrap();
    std::fs::write(&areas, "1000000 5000\n").unwrap();
    let changed = ["backup", "--disk", &image, "--changed-areas", &areas];
    let refused = scratch.run(&path, &changed).await.unwrap_err();
    assert!(refused.to_string().contains("no restore point here"), "{refused}");
    let first = scratch.run(&path, &["backup", "--disk", &image]).await.unwrap();
    assert!(first.contains("of vm: full"), "{first}");
    content[1_000_000..1_005_000].fill(7);
    std::fs::write(&image, &content).unwrap();
    let second = scratch.run(&path, &changed).await.unwrap();
    assert!(second.contains("of vm: incremental"), "{second}");
    let id = second.split_whitespace().nth(2).unwrap();
    let output = scratch.path("out.raw");
    scratch.run(&path, &["restore", "--point", id, "--disk", "2000", "--output", &output]).await.unwrap();
    assert!(std::fs::read(&output).unwrap() == content);
    std::fs::write(&areas, "one two").unwrap();
    let refused = scratch.run(&path, &changed).await.unwrap_err();
    assert!(refused.to_string().contains("line 1"), "{refused}");
    let verified = scratch.run(&path, &["verify"]).await.unwrap();
    assert!(verified.contains("All is well."), "{verified}");
    let list = scratch.run(&path, &["list"]).await.unwrap();
    assert!(list.contains("Verified: all packs"), "{list}");
}
