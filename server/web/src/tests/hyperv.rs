//! Hyper-V hosts in the console: added over each kind of connection, changed, simulated, and kept apart from ESXi at a restore.

use super::world::{CANARY, World, blocker, machine};
use axum::http::StatusCode;
use db::{HyperVAccess, Platform, Transport};
use domain::job::JobError;

const PASSWORD: &str = "canary-7f3a91-typed";

fn host<'a>(transport: &'a str, rest: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![("platform", "hyperv"), ("transport", transport), ("host", "hv-01.example")];
    fields.extend([("account", "LAB\\backup"), ("password", PASSWORD)]);
    fields.extend(rest);
    fields
}

#[tokio::test]
async fn a_host_is_added_over_tls_after_its_certificate_was_compared() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let page = client.get("/devices/new").await.ok();
    assert!(page.contains("Microsoft Hyper-V") && page.contains("?platform=hyperv") && !page.contains("SMB"), "{page}");
    let page = client.get("/devices/new?platform=hyperv").await.ok();
    for part in ["tls_ntlm", "tls_basic", "sealed_http", "share_port", "LocalAccountTokenFilterPolicy", "WinRM"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("ESXi licence"), "{page}");

    let certificate = client.post("/devices/new", &host("tls_basic", &[("share_port", "1445")])).await.went_to();
    assert!(world.doubles.passwords.lock().is_empty(), "no password before the certificate is confirmed");
    let page = client.get(&certificate).await.ok();
    assert!(page.contains("AB:AB:AB") && page.contains("PowerShell") && page.contains("hv-01.example:5986"), "{page}");
    world.doubles.findings.lock().push(blocker("The account may not read C$."));
    let page = client.post(&certificate, &[]).await.ok();
    assert!(page.contains("The account may not read C$.") && !page.contains(CANARY), "{page}");

    let device = client.post(&certificate.replace("/certificate", "/save"), &[]).await.went_to();
    let saved = world.db().devices().await.unwrap().remove(0);
    assert_eq!((saved.platform, saved.port, saved.account.as_str()), (Platform::HyperV, 5986, "LAB\\backup"));
    assert_eq!(saved.hyperv, HyperVAccess { transport: Transport::TlsBasic, share_port: 1445 });
    let page = client.get(&device).await.ok();
    for part in ["TLS, signed in with the password", "SMB, port 1445", "AB:AB:AB", "The account may not read C$."] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(client.get("/devices").await.ok().contains("Windows Server 2022"));
}

#[tokio::test]
async fn without_tls_there_is_no_certificate_until_tls_is_chosen() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let page = client.post("/devices/new", &host("sealed_http", &[])).await.ok();
    assert!(page.contains("Step 2 of 2") && page.contains("Windows Server 2022") && !page.contains(CANARY), "{page}");
    assert_eq!(*world.doubles.passwords.lock(), [PASSWORD]);
    let save = page.split("action=\"").find(|part| part.contains("/save\"")).unwrap().split('"').next().unwrap();
    let certificate = save.replace("/save", "/certificate");
    assert_eq!(client.get(&certificate).await.status, StatusCode::NOT_FOUND, "there is none");
    let device = client.post(save, &[]).await.went_to();
    let saved = world.db().devices().await.unwrap().remove(0);
    assert_eq!((saved.port, saved.certificate_sha256), (5985, None));
    assert_eq!(saved.hyperv, HyperVAccess { transport: Transport::SealedHttp, share_port: 445 });

    let device = device.split('?').next().unwrap();
    assert!(client.get(device).await.ok().contains("Without TLS, sealed by NTLM"));
    assert_eq!(client.get(&format!("{device}/certificate")).await.status, StatusCode::NOT_FOUND);
    let stolen = [("sha256", "ab".repeat(32))];
    let stolen = [(stolen[0].0, stolen[0].1.as_str())];
    assert_eq!(client.post(&format!("{device}/certificate"), &stolen).await.status, StatusCode::NOT_FOUND);

    let edit = format!("{device}/edit");
    assert!(client.get(&edit).await.ok().contains("sealed by NTLM"));
    let mut fields = host(
        "tls_ntlm",
        &[("name", "hv-01"), ("port", "5986"), ("max_jobs", "2"), ("max_jobs_datastore", "4"), ("reserve", "5")],
    );
    let page = client.post(&edit, &fields[..]).await.again();
    assert!(page.contains("AB:AB:AB") && page.contains("Is this hv-01.example?") && !page.contains(CANARY), "{page}");
    assert_eq!(world.db().devices().await.unwrap().remove(0).certificate_sha256, None, "nothing is saved yet");
    let accept = "ab".repeat(32);
    fields.push(("accept", &accept));
    client.post(&edit, &fields).await.went_to();
    let saved = world.db().devices().await.unwrap().remove(0);
    assert_eq!((saved.hyperv.transport, saved.certificate_sha256), (Transport::TlsNtlm, Some([0xab; 32])));
    let back = host(
        "sealed_http",
        &[("name", "hv-01"), ("port", "5985"), ("max_jobs", "2"), ("max_jobs_datastore", "4"), ("reserve", "5")],
    );
    let silent: Vec<_> = back.iter().copied().filter(|field| field.0 != "password").collect();
    assert!(client.post(&edit, &silent).await.again().contains("type the password again"), "it would go another way");
    client.post(&edit, &back).await.went_to();
    assert_eq!(world.db().devices().await.unwrap().remove(0).certificate_sha256, None);
}

#[tokio::test]
async fn what_is_wrong_stands_at_its_field_and_what_failed_is_said() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    let page =
        client.post("/devices/new", &host("tls_ntlm", &[("port", "5985"), ("share_port", "70000")])).await.again();
    assert!(page.contains("5985 is Windows’ port for the other kind of connection; 5986"), "{page}");
    assert!(page.contains("A number from 1 to 65535; empty for 445."), "{page}");
    assert!(page.contains(r#"value="tls_ntlm" checked"#) && !page.contains(CANARY), "{page}");
    let refused = JobError::fail("hyperv.login_refused", "Signing in to hv-01.", "It said no.", "Check the account.");
    *world.doubles.refuse.lock() = Some(refused);
    let page = client.post("/devices/new", &host("sealed_http", &[])).await.again();
    assert!(page.contains("It said no.") && page.contains("Check the account."), "{page}");
    assert!(page.contains(r#"value="sealed_http" checked"#) && !page.contains(CANARY), "{page}");
}

#[tokio::test]
async fn a_simulated_host_is_one_button() {
    let world = World::new().await;
    let mut client = world.administrator().await;
    for path in ["/", "/devices"] {
        assert!(client.get(path).await.ok().contains("Simulated Hyper-V"), "{path}");
    }
    let device = client.post("/devices/simulated", &[("platform", "hyperv")]).await.went_to();
    assert!(client.get(&device).await.ok().contains("simulated</span>"));
    assert_eq!(world.db().devices().await.unwrap()[0].platform, Platform::HyperV);
    let missing = JobError::fail("demo.no_samba", "It was not started.", "smbd is missing.", "Install Samba.");
    *world.doubles.refuse.lock() = Some(missing);
    let page = client.post("/devices/simulated", &[("platform", "hyperv")]).await.again();
    assert!(page.contains("smbd is missing.") && page.contains("Install Samba."), "{page}");
}

#[tokio::test]
async fn a_machine_comes_back_on_a_host_of_its_own_platform_only() {
    let world = World::new().await;
    world.device("esx-a", vec![machine("web-01", &[])]).await;
    let other = world.device_on(Platform::HyperV, "hv-b", Vec::new()).await.to_string();
    let repository = world.repository("nas").await;
    let vm = world.vm("web-01").await;
    let point = world.point(repository, vm, "web-01", "2026-06-01T02:00:00Z").await;
    let mut client = world.administrator().await;
    let host = client.post(&format!("/restore/points/{point}"), &[]).await.went_to();
    let page = client.get(&host).await.ok();
    assert!(page.contains("runs Microsoft Hyper-V"), "{page}");
    let page = client.post(&host, &[("device", &other)]).await.again();
    assert!(page.contains("hv-b runs Microsoft Hyper-V. Choose a host of VMware ESXi."), "{page}");
}
