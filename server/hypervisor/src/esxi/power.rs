//! Power of a machine: the guest asked to shut down, power off, power on.
//!
//! Must never: take a call whose answer was lost for one that failed; the machine's state is looked at instead.

use super::inventory::machine_ref;
use super::machine::power_state;
use super::property::of_object;
use super::session::Vim;
use super::soap::{CallError, Request};
use super::task;
use crate::{MachineRef, Result, ShutDown};
use domain::machine::PowerState;
use std::time::Duration;
use tokio::time::Instant;

/// Between looks at a machine that shuts down.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// For the host to switch a machine on or off.
const SWITCH_BUDGET: Duration = Duration::from_secs(10 * 60);
/// The machine is already as it should be.
const ALREADY: &str = "InvalidPowerState";

type Call<T> = std::result::Result<T, CallError>;

pub(super) async fn shut_down(vim: &dyn Vim, machine: &MachineRef, patience: Duration) -> Result<ShutDown> {
    let attempt = format!("shut down machine {}", machine.0);
    shut_down_inner(vim, machine, patience).await.map_err(|error| error.during(vim.host(), attempt))
}

async fn shut_down_inner(vim: &dyn Vim, machine: &MachineRef, patience: Duration) -> Call<ShutDown> {
    match state(vim, machine).await? {
        PowerState::On => {}
        PowerState::Off => return Ok(ShutDown::Off),
        PowerState::Suspended => return Ok(ShutDown::StillOn("it is suspended, and hears nothing".into())),
    }
    match vim.call(Request::new("ShutdownGuest", &machine_ref(machine), |_| {})).await {
        Ok(_) => {}
        Err(error) if error.is_fault(ALREADY) || error.is_lost() => {}
        Err(CallError::Fault(fault)) => {
            return Ok(ShutDown::StillOn(format!(
                "the host did not pass the request on to the guest: {}",
                fault.reason()
            )));
        }
        Err(error) => return Err(error),
    }
    let deadline = Instant::now() + patience;
    loop {
        match state(vim, machine).await {
            Ok(PowerState::Off) => return Ok(ShutDown::Off),
            Ok(_) => {}
            Err(CallError::Host(error)) if error.kind.is_transient() => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            let seconds = patience.as_secs();
            return Ok(ShutDown::StillOn(format!("the guest did not shut down within {seconds} seconds")));
        }
        tokio::time::sleep(LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

pub(super) async fn power_off(vim: &dyn Vim, machine: &MachineRef) -> Result<()> {
    let attempt = format!("switch machine {} off", machine.0);
    switch(vim, machine, "PowerOffVM_Task", PowerState::Off).await.map_err(|error| error.during(vim.host(), attempt))
}

pub(super) async fn power_on(vim: &dyn Vim, machine: &MachineRef) -> Result<()> {
    let attempt = format!("switch machine {} on", machine.0);
    switch(vim, machine, "PowerOnVM_Task", PowerState::On).await.map_err(|error| error.during(vim.host(), attempt))
}

async fn switch(vim: &dyn Vim, machine: &MachineRef, method: &'static str, wanted: PowerState) -> Call<()> {
    if state(vim, machine).await? == wanted {
        return Ok(());
    }
    match task::run(vim, Request::new(method, &machine_ref(machine), |_| {}), SWITCH_BUDGET).await {
        Ok(_) => Ok(()),
        Err(error) if (error.is_fault(ALREADY) || error.is_lost()) && state(vim, machine).await? == wanted => Ok(()),
        Err(error) => Err(error),
    }
}

async fn state(vim: &dyn Vim, machine: &MachineRef) -> Call<PowerState> {
    Ok(power_state(&of_object(vim, &machine_ref(machine), &["runtime.powerState"]).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esxi::script::Script;

    #[allow(clippy::unnecessary_wraps)] // a list of answers holds faults as well
    fn power(state: &str) -> std::result::Result<String, &'static str> {
        Ok(format!(
            "<returnval><objects><obj type='VirtualMachine'>VM</obj><propSet><name>runtime.powerState</name>\
             <val>{state}</val></propSet></objects></returnval>"
        ))
    }

    async fn shut(answers: Vec<std::result::Result<String, &'static str>>) -> (ShutDown, usize) {
        let script = Script::new(answers);
        let ended = shut_down(&script, &MachineRef("VM".into()), Duration::from_secs(60)).await.unwrap();
        (ended, script.asked().len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_asked_and_awaited() {
        let answers = vec![power("poweredOn"), Ok(String::new()), power("poweredOn"), power("poweredOff")];
        assert_eq!(shut(answers).await, (ShutDown::Off, 4));
        assert_eq!(shut(vec![power("poweredOff")]).await, (ShutDown::Off, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_go_is_said_to_be_on() {
        let mut stubborn = vec![power("poweredOn"), Ok(String::new())];
        stubborn.extend((0..40).map(|_| power("poweredOn")));
        let (ended, _) = shut(stubborn).await;
        assert!(matches!(&ended, ShutDown::StillOn(why) if why.contains("60 seconds")), "{ended:?}");
        let (ended, asked) = shut(vec![power("poweredOn"), Err("ToolsUnavailable")]).await;
        assert!(matches!(&ended, ShutDown::StillOn(why) if why.contains("did not pass")), "{ended:?}");
        assert_eq!(asked, 2);
        assert!(matches!(shut(vec![power("suspended")]).await, (ShutDown::StillOn(_), 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_is_as_it_should_be_is_left_alone() {
        let script = Script::new([power("poweredOn")]);
        power_on(&script, &MachineRef("VM".into())).await.unwrap();
        assert_eq!(script.asked().len(), 1);
        // Another hand switched it off between the look and the call.
        let script = Script::new([power("poweredOn"), Err("InvalidPowerState"), power("poweredOff")]);
        power_off(&script, &MachineRef("VM".into())).await.unwrap();
    }
}
