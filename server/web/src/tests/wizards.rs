//! Forms from the first field to the row, without any script.

use super::world::{CANARY, RECOVERY_KEY, World, blocker, machine};
use axum::http::StatusCode;
use db::{Method, TaskId};
use domain::job::JobError;
use domain::mode::{IfStillOn, Mode, Shutdown};
use domain::permission::Role;
use domain::retention::Retention;
use domain::schedule::Schedule;

#[tokio::test]
async fn a_device_is_added_after_its_certificate_was_compared() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    assert!(client.get("/devices").await.ok().contains("Simulated ESXi"));
    client.get("/devices/new").await.ok();
    let page = client.post("/devices/new", &[("host", "https://esx/ui"), ("port", "0"), ("account", "")]).await.again();
    assert!(page.contains("without “https://”") && page.contains("The account is missing."), "{page}");

    let secret = format!("{CANARY}-typed");
    let fields = [("host", "esx-01.example"), ("port", "443"), ("account", "root"), ("password", secret.as_str())];
    let certificate = client.post("/devices/new", &fields).await.went_to();
    assert!(world.doubles.passwords.lock().is_empty(), "no password before the certificate is confirmed");
    let page = client.get(&certificate).await.ok();
    assert!(page.contains("AB:AB:AB") && !page.contains(CANARY));

    world.doubles.findings.lock().push(blocker("The licence of esx-01 is the free one."));
    let page = client.post(&certificate, &[]).await.ok();
    assert!(page.contains("The licence of esx-01 is the free one.") && !page.contains(CANARY));
    assert_eq!(*world.doubles.passwords.lock(), std::slice::from_ref(&secret));

    let save = certificate.replace("/certificate", "/save");
    let device = client.post(&save, &[]).await.went_to();
    assert!(device.starts_with("/devices/") && device.ends_with("?said=device-added"), "{device}");
    let saved = world.db().devices().await.unwrap();
    assert_eq!((saved.len(), saved[0].host.as_str()), (1, "esx-01.example"));
    assert!(client.get(&device).await.ok().contains("The licence of esx-01 is the free one."));

    // The same address once more is refused at its field.
    let certificate = client.post("/devices/new", &fields).await.went_to();
    client.post(&certificate, &[]).await.ok();
    let page = client.post(&certificate.replace("/certificate", "/save"), &[]).await.again();
    assert!(page.contains("Another device has this name.") || page.contains("exists already"), "{page}");
}

#[tokio::test]
async fn a_host_that_does_not_answer_says_why() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let error =
        JobError::fail("esxi.unreachable", "Reading the certificate of esx:443.", "No route to host.", "Check it.");
    *world.doubles.refuse.lock() = Some(error);
    let fields = [("host", "esx"), ("port", "443"), ("account", "root"), ("password", "secret secret")];
    let page = client.post("/devices/new", &fields).await.again();
    assert!(page.contains("No route to host.") && page.contains("Check it.") && page.contains(r#"value="esx""#));
    assert!(!page.contains("secret secret"));
}

#[tokio::test]
async fn a_moved_device_needs_its_password_again() {
    let world = World::new().await;
    let device = world.device("esx-a", Vec::new()).await;
    let mut client = world.administrator().await;
    let path = format!("/devices/{device}/edit");
    let page = client.get(&path).await.ok();
    assert!(!page.contains(CANARY));
    let fields = [
        ("name", "esx-a"),
        ("host", "elsewhere.example"),
        ("port", "443"),
        ("account", "root"),
        ("max_jobs", "2"),
        ("max_jobs_datastore", "4"),
        ("reserve", "5"),
    ];
    assert!(client.post(&path, &fields).await.again().contains("type the password again"));
    let same = [
        ("name", "esx-b"),
        ("host", "esx-a.example"),
        ("port", "443"),
        ("account", "root"),
        ("max_jobs", "5"),
        ("max_jobs_datastore", "4"),
        ("reserve", "5"),
    ];
    client.post(&path, &same).await.went_to();
    let saved = world.db().device(device).await.unwrap();
    assert_eq!((saved.name.as_str(), saved.max_jobs), ("esx-b", 5));
}

#[tokio::test]
async fn a_simulated_host_is_one_button_and_always_labelled() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let device = client.post("/devices/simulated", &[]).await.went_to();
    for path in ["/devices", device.as_str()] {
        assert!(client.get(path).await.ok().contains("simulated</span>"), "{path}");
    }
    let device = device.split('?').next().unwrap();
    client.post(&format!("{device}/remove"), &[]).await.went_to();
    assert_eq!(*world.doubles.demos_removed.lock(), [9001], "the host goes with its device");
}

/// Walks the wizard; gives the address after the last step.
async fn create_task(world: &World, do_last: &str) -> String {
    let mut client = world.administrator().await;
    let (web, db) = (world.vm("web-01").await.to_string(), world.vm("db-01").await.to_string());
    client.get("/tasks/new").await.ok();
    let machines = client.post("/tasks/new", &[("name", "Nightly")]).await.went_to();
    let draft = machines.trim_end_matches("/machines").to_owned();
    assert_eq!(client.get(&format!("{draft}/summary")).await.went_to(), machines, "steps are not jumped over");
    let location = client.post(&machines, &[("vm", &web), ("vm", &db)]).await.went_to();
    assert_eq!(location, format!("{draft}/location"));
    let new = client.post(&location, &[("do", "create")]).await.went_to();
    client.get(&new).await.ok();
    let id = draft.rsplit('/').next().unwrap();
    let secret = format!("{CANARY} passphrase");
    let fields =
        [("draft", id), ("name", "NAS"), ("path", "/srv/nas"), ("passphrase", &secret), ("passphrase_again", &secret)];
    let page = client.post("/storage/new", &fields).await.ok();
    assert_eq!(page.matches(RECOVERY_KEY).count(), 1, "shown once");
    assert!(!page.contains(CANARY));
    let made = page.split(r#"name="made" value=""#).nth(1).unwrap().split('"').next().unwrap();
    let page = client.get(&format!("{location}?made={made}")).await.ok();
    assert!(page.contains("NAS") && page.contains(" checked") && !page.contains(RECOVERY_KEY));
    let method = client.post(&location, &[("repository", made)]).await.went_to();
    let page = client.get(&method).await.ok();
    assert!(page.contains("shutdown_minutes") && page.contains(r#"value="hot" checked"#), "{page}");
    assert!(page.contains(r#"name="quiesce" value="prefer" checked"#), "the default: {page}");
    let mut fields = vec![("method", "differential"), ("full_every", "7"), ("mode", "cold"), ("if_still_on", "hot")];
    fields.push(("quiesce", "require"));
    fields.push(("shutdown_minutes", "500"));
    assert!(client.post(&method, &fields).await.again().contains("Minutes, from 1 to 120."));
    fields.pop();
    fields.push(("shutdown_minutes", "15"));
    let schedule = client.post(&method, &fields).await.went_to();
    let fields = [("repeat", "daily"), ("at", "02:30"), ("time_zone", "Europe/Vienna"), ("do", "preview")];
    let page = client.post(&schedule, &fields).await.ok();
    assert_eq!(page.matches("02:30</td>").count(), 10, "the next ten runs");
    let retention = client.post(&schedule, &fields[..3]).await.went_to();
    let summary = client.post(&retention, &[("keep", "3")]).await.went_to();
    let page = client.get(&summary).await.ok();
    let method = "Differential, a full every 7 points";
    let end = "then the machine is backed up running, quiesced or not at all";
    for part in ["Nightly", "web-01", "db-01", "NAS", "02:30", "last 3 points", method, end] {
        assert!(page.contains(part), "{part}");
    }
    client.post(&summary, &[("do", do_last)]).await.went_to()
}

async fn two_machines() -> World {
    let world = World::new().await;
    world.device("esx-a", vec![machine("web-01", &[]), machine("raw-01", &[blocker("Disk 1 is a raw device.")])]).await;
    world.device("esx-b", vec![machine("db-01", &[])]).await;
    world
}

#[tokio::test]
async fn a_task_is_made_step_by_step() {
    let world = two_machines().await;
    let address = create_task(&world, "create").await;
    let id: TaskId = address.trim_start_matches("/tasks/").split('?').next().unwrap().parse().unwrap();
    let task = world.db().task(id).await.unwrap();
    assert_eq!((task.name.as_str(), task.method, task.full_every), ("Nightly", Method::Differential, 7));
    let shutdown = Shutdown { limit_minutes: 15, if_still_on: IfStillOn::Hot };
    assert_eq!((task.mode, task.shutdown()), (Mode::Cold, shutdown));
    assert_eq!(task.retention, Retention::KeepLast { count: 3 });
    let at = "02:30".parse().unwrap();
    assert_eq!(task.schedule, Schedule::daily(at, "Europe/Vienna"));
    assert_eq!(world.db().task_machines(id).await.unwrap().len(), 2);
    let page = world.administrator().await.get(&address).await.ok();
    assert!(
        page.contains("The task is created.") && page.contains("Cold: off while it is copied. 15 min to shut down")
    );
}

#[tokio::test]
async fn create_and_run_leads_to_the_run() {
    let world = two_machines().await;
    let address = create_task(&world, "run").await;
    assert!(address.starts_with("/activity/"), "{address}");
    let mut client = world.administrator().await;
    let page = client.get(&address).await.ok();
    assert!(page.contains("web-01") && page.contains("db-01") && page.contains("Waiting"));
    assert!(page.contains("hx-sse:connect") && page.contains(r#"hx-sse:close="run-done""#));
    client.post(&format!("{address}/cancel"), &[]).await.went_to();
    let page = client.get(&address).await.ok();
    assert!(page.contains("Cancelled") && page.contains("Try failed again") && !page.contains("hx-sse:connect"));
}

#[tokio::test]
async fn a_machine_that_cannot_be_backed_up_cannot_be_picked() {
    let world = two_machines().await;
    let mut client = world.client(Role::Operator).await;
    let raw = world.vm("raw-01").await.to_string();
    let machines = client.post("/tasks/new", &[("name", "Raw")]).await.went_to();
    let page = client.get(&machines).await.ok();
    assert!(page.contains("Disk 1 is a raw device.") && page.contains("disabled aria-describedby"), "{page}");
    let page = client.post(&machines, &[("vm", &raw)]).await.again();
    assert!(page.contains("raw-01 cannot be backed up: Disk 1 is a raw device."), "{page}");
    // “Pick all shown” leaves it out.
    let filtered = client.post(&machines, &[("do", "all"), ("q", "")]).await.went_to();
    assert!(client.get(&filtered).await.ok().contains("2, 40 GB"));
    // What is picked survives a filter that hides it.
    let web = world.vm("web-01").await.to_string();
    let filtered = client.post(&machines, &[("do", "filter"), ("q", "db-"), ("vm", &web)]).await.went_to();
    let page = client.get(&filtered).await.ok();
    assert!(page.contains(&format!(r#"<input type="hidden" name="vm" value="{web}">"#)), "{page}");
}

#[tokio::test]
async fn a_draft_belongs_to_its_account() {
    let world = two_machines().await;
    let machines = world.administrator().await.post("/tasks/new", &[("name", "Mine")]).await.went_to();
    let answer = world.client(Role::Operator).await.get(&machines).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_task_can_be_changed_paused_and_removed() {
    let world = two_machines().await;
    let address = create_task(&world, "create").await;
    let task = address.split('?').next().unwrap().to_owned();
    let mut client = world.administrator().await;
    assert!(client.post(&format!("{task}/pause"), &[]).await.went_to().ends_with("said=task-paused"));
    assert!(client.get(&task).await.ok().contains("Paused"));
    client.post(&format!("{task}/resume"), &[]).await.went_to();
    let summary = client.post(&format!("{task}/edit"), &[]).await.went_to();
    let name = summary.replace("/summary", "/name");
    client.get(&summary).await.ok();
    client.post(&name, &[("name", "Nightly, both")]).await.went_to();
    assert_eq!(client.post(&summary, &[("do", "create")]).await.went_to(), format!("{task}?said=task-saved"));
    assert!(client.get(&task).await.ok().contains("Nightly, both"));
    client.post(&format!("{task}/run"), &[]).await.went_to();
    assert!(client.post(&format!("{task}/remove"), &[]).await.again().contains("was not removed"));
    // A device whose machines are in a task is not removed, and says which.
    let device = world.db().devices().await.unwrap()[0].device_id;
    let page = client.post(&format!("/devices/{device}/remove"), &[]).await.again();
    assert!(page.contains("task “Nightly, both”"), "{page}");
}

#[tokio::test]
async fn shares_exports_and_buckets_are_locations_too() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let secret = format!("{CANARY} secret");
    let common = [("passphrase", secret.as_str()), ("passphrase_again", secret.as_str()), ("secret", secret.as_str())];
    let smb = [
        ("kind", "smb"),
        ("name", "NAS"),
        ("address", "nas"),
        ("share", "vm"),
        ("folder", "\\\\a\\b"),
        ("account", "b"),
    ];
    let nfs = [("kind", "nfs"), ("name", "Filer"), ("address", "filer"), ("export", "/volume1"), ("uid", "1000")];
    let s3 = [
        ("kind", "s3"),
        ("name", "Bucket"),
        ("endpoint", "https://s3.example.org"),
        ("bucket", "backups"),
        ("access_key", "AK"),
        ("lock_days", "30"),
        ("lock_mode", "compliance"),
    ];
    for (fields, words) in [(&smb[..], "SMB share"), (&nfs[..], "NFS export"), (&s3[..], "S3 bucket")] {
        let page = client.get(&format!("/storage/new?kind={}", fields[0].1)).await.ok();
        assert!(page.contains(words));
        let page = client.post("/storage/new", &[fields, &common[..]].concat()).await.ok();
        assert!(page.contains(RECOVERY_KEY) && page.contains(words) && !page.contains(CANARY), "{page}");
    }
    let made = world.doubles.locations.lock().clone();
    let kept: Vec<_> = made.iter().map(|order| serde_json::to_value(&order.location).unwrap()).collect();
    assert_eq!((&kept[0]["folder"], &kept[0]["port"]), (&"a/b".into(), &445.into()));
    assert_eq!((&kept[1]["export"], &kept[1]["uid"]), (&"/volume1".into(), &1000.into()));
    assert_eq!(kept[2]["object_lock"], serde_json::json!({ "days": 30, "mode": "compliance" }));
    assert!(made[1].secret.is_none() && made[0].secret.is_some());
    let list = client.get("/storage").await.ok();
    assert!(list.contains("SMB share · //nas/vm/a/b") && list.contains("S3 bucket"), "{list}");
}

#[tokio::test]
async fn what_is_wrong_with_a_share_stands_at_its_field() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let secret = format!("{CANARY} secret");
    let fields = [
        ("kind", "smb"),
        ("name", "NAS"),
        ("share", "a/b"),
        ("folder", "../up"),
        ("account", "backup"),
        ("port", "x"),
        ("passphrase", &secret),
        ("passphrase_again", &secret),
    ];
    let page = client.post("/storage/new", &fields).await.again();
    for words in
        ["The address is missing", "Only the share’s name", "A path within it", "Not a number", "password is missing"]
    {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(page.contains(r#"value="a/b""#) && !page.contains(CANARY), "what is no secret is kept");
    assert!(world.doubles.locations.lock().is_empty());
}

#[tokio::test]
async fn a_restore_goes_to_another_host_under_a_new_name() {
    let world = two_machines().await;
    let (repository, vm) = (world.repository("nas").await, world.vm("web-01").await);
    let point = world.point(repository, vm, "web-01", "2026-11-21T22:00:00Z").await;
    let mut client = world.client(Role::Operator).await;
    assert!(client.get("/restore").await.ok().contains("web-01"));
    let key = format!("key%2F{vm}");
    let page = client.get(&format!("/restore/machines/{key}")).await.ok();
    assert!(page.contains("Sat 21 Nov"), "{page}");
    let page = client.get(&format!("/restore/machines/{key}?day=2026-11-20")).await.ok();
    assert!(page.contains("None on this day."));
    client.get(&format!("/restore/points/{point}")).await.ok();

    let host = client.post(&format!("/restore/points/{point}"), &[]).await.went_to();
    client.get(&host).await.ok();
    assert!(client.post(&host, &[]).await.again().contains("Choose a host."));
    let device = world.db().devices().await.unwrap()[1].device_id.to_string();
    let target = client.post(&host, &[("device", &device)]).await.went_to();
    let page = client.get(&target).await.ok();
    assert!(page.contains("web-01-restore-2026-11-21") && page.contains("datastore1") && page.contains("powered off"));
    let taken = [("name", "db-01"), ("datastore", "nowhere"), ("network", "other")];
    let page = client.post(&target, &taken).await.again();
    assert!(page.contains("has a machine of this name") && page.contains("Choose a datastore."));
    let fields = [("name", "web-01-back"), ("datastore", "datastore1"), ("network", "VM Network")];
    let summary = client.post(&target, &fields).await.went_to();
    assert!(client.get(&summary).await.ok().contains("web-01-back"));
    let run = client.post(&summary, &[]).await.went_to();
    assert!(client.get(&run).await.ok().contains("Restore of web-01"));
    let order = world.doubles.orders.lock()[0].clone();
    assert_eq!((order.name.as_str(), order.datastore.as_str()), ("web-01-back", "datastore1"));
    assert_eq!(
        (order.network.as_deref(), order.connect_network, order.keep_identity),
        (Some("VM Network"), false, false)
    );
}
