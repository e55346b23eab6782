//! What the door lets in.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use simulators::esxi::License;

use crate::bench::{Bench, CURRENT_TIME, SOAP_ACTION, create_snapshot, vm_call};

#[tokio::test]
async fn the_protocol_is_strict() {
    let mut bench = Bench::new(|_| {}).await;
    let id = bench.id("off-01");
    let answer = bench.send(CURRENT_TIME, None).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "SOAPAction is mandatory");
    let answer = bench.send(CURRENT_TIME, Some("urn:vim25/99.0")).await;
    assert!(answer.text().await.unwrap().contains("Unsupported version"));
    let swapped = create_snapshot(&id)
        .replace("<memory>false</memory><quiesce>false</quiesce>", "<quiesce>false</quiesce><memory>false</memory>");
    assert!(bench.fault(&swapped).await.contains("InvalidRequest"));
    assert!(bench.fault(&vm_call("Fetch", &id)).await.contains("InvalidRequest"));
    assert!(bench.fault(&vm_call("PowerOnVM_Task", "no-such")).await.contains("ManagedObjectNotFound"));
    assert!(bench.fault(&vm_call("PowerOffVM_Task", &id)).await.contains("<existingState>poweredOff"));
    let log = bench.host.requests();
    assert!(log.iter().any(|r| r.what == "Fetch" && r.status == 500 && r.fault.is_some()), "refusals are on record");
    let quoted = bench.cookie.clone();
    bench.cookie = quoted.replace('"', "");
    assert!(
        bench.fault(CURRENT_TIME).await.contains("NotAuthenticated"),
        "the cookie has to be echoed with its quotes"
    );
    bench.cookie = quoted;
    bench.call(CURRENT_TIME).await;
    bench.host.drop_sessions();
    assert!(bench.fault(CURRENT_TIME).await.contains("NotAuthenticated"));
    bench.cookie.clear();
    let wrong = "<Login><_this type=\"SessionManager\">ha-sessionmgr</_this><userName>root</userName><password>x</password></Login>";
    assert!(bench.fault(wrong).await.contains("InvalidLogin"));
}

#[tokio::test]
async fn sessions_expire_and_are_limited() {
    let mut bench = Bench::new(|config| {
        config.limits.session_idle = Duration::from_millis(300);
        config.limits.sessions_max = 1;
    })
    .await;
    let first = std::mem::take(&mut bench.cookie);
    let login = "<Login><_this type=\"SessionManager\">ha-sessionmgr</_this><userName>root</userName><password>simulated</password></Login>";
    let answer = bench.send(login, Some(SOAP_ACTION)).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("Out of HTTP sessions"));
    bench.cookie = first;
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.host.open_handles().0 > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bench.fault(CURRENT_TIME).await.contains("NotAuthenticated"));
}

#[tokio::test]
async fn a_free_licence_reads_but_does_not_change() {
    let bench = Bench::new(|config| config.license = License::Free).await;
    let id = bench.id("off-01");
    assert!(bench.property("VirtualMachine", &id, "name").await.contains("off-01"));
    assert!(bench.property("LicenseManager", "ha-license-manager", "licenses").await.contains("esxBasic"));
    for call in [create_snapshot(&id), vm_call("PowerOnVM_Task", &id)] {
        assert!(bench.fault(&call).await.contains("RestrictedVersion"));
    }
}

#[tokio::test]
async fn an_old_host_speaks_an_old_version() {
    let bench = Bench::new(|config| config.api_version = "6.0".to_owned()).await;
    let id = bench.id("off-01");
    let versions = bench.http.get(bench.url("/sdk/vimServiceVersions.xml")).send().await.unwrap().text().await.unwrap();
    assert!(versions.contains("<version>6.0</version>") && !versions.contains("8.0"));
    assert_eq!(bench.send(CURRENT_TIME, Some("urn:vim25/7.0.0.0")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let boot = bench.property("VirtualMachine", &id, "config.bootOptions").await;
    assert!(boot.contains("bootDelay") && !boot.contains("efiSecureBootEnabled"), "that came with 6.5");
}
