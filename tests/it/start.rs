//! Start and stop of the server, as its administrator sees them.

use std::fs;
use std::path::Path;
use std::process::Command;
use support::{Client, Options, Server, stillframe};

const PASSWORD: &str = "correct horse battery";

fn postmaster(data_dir: &Path) -> Option<u32> {
    let file = fs::read_to_string(data_dir.join("postgres/cluster/postmaster.pid")).ok()?;
    let pid: u32 = file.lines().next()?.trim().parse().ok()?;
    Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
}

#[tokio::test]
async fn the_setup_token_lets_in_the_first_administrator_once() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = Server::fresh(folder.path());
    let token = server.setup_token.clone().expect("a token is printed");
    let mut stranger = Client::new(&server.address);
    assert_eq!(stranger.set_up("0000-0000", "eve", PASSWORD).await.status, 422);
    let mut client = Client::new(&server.address);
    let answer = client.set_up(&token, "admin", PASSWORD).await;
    assert_eq!((answer.status, answer.location.as_deref()), (303, Some("/")), "{}", answer.body);
    assert_eq!(client.get("/").await.status, 200);
    let again = stranger.set_up(&token, "eve", PASSWORD).await;
    assert_ne!(again.location.as_deref(), Some("/"), "{}", again.body);
    assert_eq!(stranger.get("/setup").await.location.as_deref(), Some("/login"));
    assert_ne!(stranger.get("/").await.status, 200);
}

#[tokio::test]
async fn a_clean_stop_ends_the_database_and_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (server, options) = Server::fresh(folder.path());
    let token = server.setup_token.clone().unwrap();
    Client::new(&server.address).set_up(&token, "admin", PASSWORD).await;
    assert!(postmaster(&options.data_dir).is_some());
    assert!(server.terminate().success());
    assert_eq!(postmaster(&options.data_dir), None);
    let server = Server::start(&options);
    assert_eq!(server.setup_token, None, "an administrator exists");
    let mut client = Client::new(&server.address);
    let answer = client.submit("/login", "/login", &[("user", "admin"), ("password", PASSWORD)]).await;
    assert_eq!(answer.location.as_deref(), Some("/"), "{}", answer.body);
}

#[test]
fn a_second_server_on_the_same_folder_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (server, options) = Server::fresh(folder.path());
    let (status, said) = Server::refused(&options, true);
    assert!(!status.success());
    assert!(said.contains("another Stillframe server uses it") && said.contains(&server.id().to_string()), "{said}");
}

#[test]
fn a_killed_servers_database_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let (server, options) = Server::fresh(folder.path());
    server.kill();
    let orphan = postmaster(&options.data_dir).expect("the database outlives a killed server");
    let server = Server::start(&options);
    assert_ne!(postmaster(&options.data_dir), Some(orphan));
    assert!(server.terminate().success());
    assert_eq!(postmaster(&options.data_dir), None);
}

#[test]
fn another_credential_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (server, options) = Server::fresh(folder.path());
    server.terminate();
    fs::remove_file(options.data_dir.join("secrets/credential.key")).unwrap();
    let (status, said) = Server::refused(&options, true);
    assert!(!status.success());
    assert!(said.contains("another credential key"), "{said}");
    assert_eq!(postmaster(&options.data_dir), None, "a refused start leaves no database running");
}

#[test]
fn plain_http_is_refused_where_others_can_reach_it() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--plain-http", "--listen", "0.0.0.0:0"].map(str::to_owned).to_vec();
    let options = Options { data_dir: folder.path().join("data"), arguments, ..Options::default() };
    let (status, said) = Server::refused(&options, false);
    assert!(!status.success());
    assert!(said.contains("Plain HTTP is refused"), "{said}");
}

#[test]
fn a_certificate_of_ones_own_must_be_readable() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.pem"), "not a certificate").unwrap();
    let bad = folder.path().join("bad.pem").display().to_string();
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", &bad, "--tls-key", &bad].map(str::to_owned).to_vec();
    let options = Options { data_dir: folder.path().join("data"), arguments, ..Options::default() };
    let (status, said) = Server::refused(&options, false);
    assert!(!status.success());
    assert!(said.contains("bad.pem") && said.contains("cannot be used"), "{said}");
}

#[test]
fn a_database_that_does_not_answer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        data_dir: folder.path().join("data"),
        database_url: Some("postgres://nobody:not-a-secret@127.0.0.1:1/none".to_owned()),
        ..Options::default()
    };
    let (status, said) = Server::refused(&options, true);
    assert!(!status.success());
    assert!(said.contains("The database could not be opened"), "{said}");
    assert!(!said.contains("not-a-secret"), "{said}");
}

#[test]
fn doctor_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output =
            Command::new(stillframe()).arg("doctor").args(arguments).env_remove("DATABASE_URL").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let data = folder.path().join("data").display().to_string();
    let (fine, said) = run(&["--data-dir", &data, "--listen", "127.0.0.1:0"]);
    assert!(fine && said.contains("Nothing is missing"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (fine, said) = run(&["--data-dir", &data, "--listen", &address]);
    assert!(!fine && said.contains(&address), "{said}");
}
