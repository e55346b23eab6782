//! Machines shut down, switched off and on.

use super::Lab;
use hypervisor::{ErrorKind, Hypervisor, MachineRef, ShutDown};
use simulators::esxi::{Action, On, Power, Rule};
use std::time::Duration;

#[tokio::test]
async fn a_machine_goes_off_and_on_and_twice_is_no_error() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let runs = || lab.host.machine("web").expect("web").power == Power::On;
    for _ in 0..2 {
        assert_eq!(host.shut_down(&web, Duration::from_secs(30)).await.expect("asked"), ShutDown::Off);
        assert!(!runs());
    }
    for _ in 0..2 {
        host.power_on(&web).await.expect("on");
        assert!(runs());
    }
    for _ in 0..2 {
        host.power_off(&web).await.expect("off");
        assert!(!runs());
    }
    let error = host.power_on(&MachineRef("999".into())).await.expect_err("no such machine");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn a_guest_that_does_not_listen_stays_on_and_is_said_so() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    lab.fault(Rule::once(On::method("ShutdownGuest"), Action::TaskStalls));
    let ended = host.shut_down(&web, Duration::from_millis(50)).await.expect("asked");
    assert!(matches!(&ended, ShutDown::StillOn(why) if why.contains("did not shut down")), "{ended:?}");
    assert_eq!(lab.host.machine("web").expect("web").power, Power::On);
}
