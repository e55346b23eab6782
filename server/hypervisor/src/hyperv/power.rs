//! Power of a machine: the guest asked to shut down, switched off, switched on.
//!
//! Must never: take a call whose answer was lost for one that failed; the machine's state is looked at instead.

use super::machine::power_state;
use super::model::{all, machine_reference};
use super::wire::{CallError, Wsman};
use super::wmi::{Arguments, Namespace, Reference, get, run};
use crate::{MachineRef, Result, ShutDown};
use domain::machine::PowerState;
use std::time::Duration;
use tokio::time::Instant;

/// The integration service that passes a shutdown on to the guest.
const SHUTDOWN_COMPONENT: &str = "Msvm_ShutdownComponent";
/// `InitiateShutdown`: somebody is logged in and the screen is locked.
const LOCKED: &str = "32781";
/// A shutdown is under way already.
const UNDER_WAY: &str = "32782";
/// `RequestedState`.
const ON: u32 = 2;
const OFF: u32 = 3;

type Call<T> = std::result::Result<T, CallError>;

pub(super) async fn shut_down(wsman: &dyn Wsman, machine: &MachineRef, patience: Duration) -> Result<ShutDown> {
    let attempt = format!("shut down machine {}", machine.0);
    shut_down_inner(wsman, machine, patience).await.map_err(|error| error.during(wsman.host(), attempt))
}

async fn shut_down_inner(wsman: &dyn Wsman, machine: &MachineRef, patience: Duration) -> Call<ShutDown> {
    match state(wsman, machine).await? {
        PowerState::On => {}
        PowerState::Off => return Ok(ShutDown::Off),
        PowerState::Suspended => return Ok(ShutDown::StillOn("it is saved or paused, and hears nothing".into())),
    }
    let deadline = Instant::now() + patience;
    if let Some(reason) = ask(wsman, machine).await? {
        return Ok(ShutDown::StillOn(reason));
    }
    loop {
        match state(wsman, machine).await {
            Ok(PowerState::Off) => return Ok(ShutDown::Off),
            Ok(_) => {}
            Err(error) if error.is_passing() => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            let seconds = patience.as_secs();
            return Ok(ShutDown::StillOn(format!("the guest did not shut down within {seconds} seconds")));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(wsman.timeouts().look_again().min(left)).await;
    }
}

/// Why the guest cannot be asked; `None` when it was.
async fn ask(wsman: &dyn Wsman, machine: &MachineRef) -> Call<Option<String>> {
    let components = all(wsman, SHUTDOWN_COMPONENT).await?;
    let own = components.iter().find(|row| row.word("SystemName").eq_ignore_ascii_case(&machine.0));
    let Some(component) = own else {
        return Ok(Some("the guest has no integration service for shutdown".into()));
    };
    let keys = ["CreationClassName", "DeviceID", "SystemCreationClassName", "SystemName"];
    let keys: Vec<(&str, &str)> = keys.into_iter().map(|key| (key, component.word(key))).collect();
    let target = Reference::new(Namespace::Virtualization.uri(SHUTDOWN_COMPONENT), &keys);
    for force in [false, true] {
        let arguments = Arguments::default().text("Force", force).text("Reason", "Backup");
        match run(wsman, &target, "InitiateShutdown", arguments, wsman.timeouts().job).await {
            Ok(_) => return Ok(None),
            Err(error) if error.is_lost() => return Ok(None),
            Err(CallError::Fault(fault)) if fault.is_any(&[UNDER_WAY]) => return Ok(None),
            // A locked screen is no reason to keep running.
            Err(CallError::Fault(fault)) if fault.is_any(&[LOCKED]) && !force => {}
            Err(CallError::Fault(fault)) => {
                return Ok(Some(format!("the host did not pass the request on to the guest: {}", fault.reason())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some("the guest's screen is locked".into()))
}

pub(super) async fn power_off(wsman: &dyn Wsman, machine: &MachineRef) -> Result<()> {
    let attempt = format!("switch machine {} off", machine.0);
    switch(wsman, machine, OFF, PowerState::Off).await.map_err(|error| error.during(wsman.host(), attempt))
}

pub(super) async fn power_on(wsman: &dyn Wsman, machine: &MachineRef) -> Result<()> {
    let attempt = format!("switch machine {} on", machine.0);
    switch(wsman, machine, ON, PowerState::On).await.map_err(|error| error.during(wsman.host(), attempt))
}

async fn switch(wsman: &dyn Wsman, machine: &MachineRef, requested: u32, wanted: PowerState) -> Call<()> {
    if state(wsman, machine).await? == wanted {
        return Ok(());
    }
    let target = machine_reference(machine);
    let arguments = Arguments::default().text("RequestedState", requested);
    match run(wsman, &target, "RequestStateChange", arguments, wsman.timeouts().job).await {
        Ok(_) => Ok(()),
        Err(error) => {
            // Another hand was quicker, or the answer was lost and the host does it all the same.
            let patience = if error.is_lost() { wsman.timeouts().settle } else { Duration::ZERO };
            let deadline = Instant::now() + patience;
            loop {
                if state(wsman, machine).await.is_ok_and(|now| now == wanted) {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    return Err(error);
                }
                tokio::time::sleep(wsman.timeouts().look_again()).await;
            }
        }
    }
}

pub(super) async fn state(wsman: &dyn Wsman, machine: &MachineRef) -> Call<PowerState> {
    Ok(power_state(&get(wsman, &machine_reference(machine)).await?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unnecessary_wraps, clippy::format_collect)] // a list of answers holds faults as well

    use super::*;
    use crate::hyperv::script::{Answer, Script, started, state as job};

    fn power(state: u32) -> Answer {
        Ok(format!("<Msvm_ComputerSystem><EnabledState>{state}</EnabledState></Msvm_ComputerSystem>").leak())
    }

    const COMPONENT: Answer = Ok("<E><Items><Msvm_ShutdownComponent><SystemName>VM</SystemName><DeviceID>D</DeviceID>\
        </Msvm_ShutdownComponent></Items><EndOfSequence/></E>");
    const ASKED: Answer = Ok("<InitiateShutdown_OUTPUT><ReturnValue>0</ReturnValue></InitiateShutdown_OUTPUT>");
    const IS_LOCKED: Answer = Ok("<InitiateShutdown_OUTPUT><ReturnValue>32781</ReturnValue></InitiateShutdown_OUTPUT>");

    async fn shut(answers: Vec<Answer>) -> (ShutDown, usize) {
        let script = Script::new(answers);
        let ended = shut_down(&script, &MachineRef("VM".into()), Duration::from_secs(60)).await.unwrap();
        (ended, script.asked().len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_asked_and_awaited() {
        assert_eq!(shut(vec![power(2), COMPONENT, ASKED, power(2), power(3)]).await, (ShutDown::Off, 5));
        assert_eq!(shut(vec![power(3)]).await, (ShutDown::Off, 1));
        assert_eq!(shut(vec![power(2), COMPONENT, IS_LOCKED, ASKED, power(3)]).await, (ShutDown::Off, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_go_is_said_to_be_on() {
        let mut stubborn = vec![power(2), COMPONENT, ASKED];
        stubborn.extend((0..40).map(|_| power(2)));
        let (ended, _) = shut(stubborn).await;
        assert!(matches!(&ended, ShutDown::StillOn(why) if why.contains("60 seconds")), "{ended:?}");
        let (ended, _) = shut(vec![power(2), Ok("<E><Items/><EndOfSequence/></E>")]).await;
        assert!(matches!(&ended, ShutDown::StillOn(why) if why.contains("integration service")), "{ended:?}");
        assert!(matches!(shut(vec![power(6)]).await, (ShutDown::StillOn(_), 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_switched_by_a_job_and_left_alone_when_it_is_as_it_should_be() {
        let machine = MachineRef("VM".into());
        power_on(&Script::new([power(2)]), &machine).await.unwrap();
        let script = Script::new([power(3), started("RequestStateChange", "Msvm_ConcreteJob"), job(7, "")]);
        power_on(&script, &machine).await.unwrap();
        assert!(script.asked()[1].body.contains("<p:RequestedState>2</p:RequestedState>"));
        let refused = Ok("<RequestStateChange_OUTPUT><ReturnValue>32775</ReturnValue></RequestStateChange_OUTPUT>");
        power_off(&Script::new([power(2), refused, power(3)]), &machine).await.unwrap();
        assert!(power_off(&Script::new([power(2), refused, power(2)]), &machine).await.is_err());
    }
}
