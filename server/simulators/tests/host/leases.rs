//! Leases that end badly.

use std::time::{Duration, Instant};

use simulators::esxi::{Action, On, Rule};

use crate::bench::{Bench, between, import_call};

/// Waits until a lease is in a state.
async fn lease_is(bench: &Bench, lease: &str, state: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.property("HttpNfcLease", lease, "state").await != state {
        assert!(Instant::now() < deadline, "{state}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn leases_expire_without_progress_and_leave_nothing() {
    let bench = Bench::new(|config| config.limits.lease_timeout = Duration::from_millis(200)).await;
    let started = bench.call(&import_call("half-01")).await;
    let lease = between(&started, "type=\"HttpNfcLease\">", "<").to_owned();
    lease_is(&bench, &lease, "ready").await;
    let info = bench.property("HttpNfcLease", &lease, "info").await;
    assert!(info.contains("https://*/nfc/") && info.contains("VirtualLsiLogicController0:3"), "{info}");
    assert!(bench.host.machine("half-01").unwrap().leased);
    lease_is(&bench, &lease, "error").await;
    assert!(bench.property("HttpNfcLease", &lease, "error").await.contains("Timedout"));
    assert!(bench.host.machine("half-01").is_err(), "the half-made machine is gone");
    assert!(!bench.config.state_dir.join("datastores/datastore1/half-01").exists());
    bench.host.faults().add(Rule::once(On::method("ImportVApp"), Action::LeaseFails));
    let started = bench.call(&import_call("half-02")).await;
    lease_is(&bench, between(&started, "type=\"HttpNfcLease\">", "<"), "error").await;
    assert!(bench.host.machine("half-02").is_err());
}
