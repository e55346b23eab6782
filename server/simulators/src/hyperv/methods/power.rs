//! Machines are switched on and off.

use std::time::Duration;

use uuid::Uuid;

use super::{Call, Output, RETURN_FAILED, RETURN_INVALID_PARAMETER, RETURN_INVALID_STATE, Refusal};
use crate::hyperv::config::Shutdown;
use crate::hyperv::host::{Host, SharedHost};
use crate::hyperv::inject::Action;
use crate::hyperv::jobs::JobError;
use crate::hyperv::machine::{Machine, STATE_OFF, STATE_ON};

/// How often a guest that shuts down looks whether a job is done with its machine.
const TICK: Duration = Duration::from_millis(10);

/// The machine that a property of the called instance names.
fn machine(call: &Call<'_>, property: &str) -> Result<Machine, Refusal> {
    let id = call.target.get(property).text().and_then(|id| Uuid::parse_str(id).ok());
    id.and_then(|id| call.host.machine(id)).ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))
}

pub(super) fn request(call: &Call<'_>) -> Result<Output, Refusal> {
    let machine = machine(call, "Name")?;
    let on = match call.number("RequestedState")? {
        STATE_ON => true,
        STATE_OFF => false,
        _ => return Err(Refusal::Code(RETURN_INVALID_PARAMETER)),
    };
    if machine.on == on {
        return Err(Refusal::Code(RETURN_INVALID_STATE));
    }
    call.start(Some(machine.id), move |host| {
        set(host, machine.id, on)?;
        Ok(Vec::new())
    })
}

/// Switches a machine, and its guest's writes with it.
pub(crate) fn set(host: &Host, machine: Uuid, on: bool) -> Result<(), JobError> {
    host.change_machine(machine, |machine| machine.on = on)?;
    host.apply_power(machine)?;
    Ok(())
}

pub(super) fn shut_down(call: &Call<'_>) -> Result<Output, Refusal> {
    let machine = machine(call, "SystemName")?;
    let delay = match machine.quirks.shutdown {
        _ if call.injected == Some(Action::IgnoreShutdown) => None,
        Shutdown::Refuses => return Err(Refusal::Code(RETURN_FAILED)),
        Shutdown::Ignores => None,
        Shutdown::Obeys => Some(call.host.config.limits.job_delay),
        Shutdown::Slow(time) => Some(time),
    };
    if let Some(delay) = delay {
        let host = SharedHost::clone(call.host);
        call.host.runtime.spawn(async move { later(host, machine.id, delay).await });
    }
    Ok(Output::default())
}

/// The guest is down after a while; not in the middle of a job on its machine.
async fn later(host: SharedHost, machine: Uuid, delay: Duration) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = host.stop.cancelled() => return,
    }
    while host.jobs.busy(machine) && !host.stop.is_cancelled() {
        tokio::time::sleep(TICK).await;
    }
    let own = SharedHost::clone(&host);
    let done = host.runtime.spawn_blocking(move || set(&own, machine, false)).await;
    if !matches!(done, Ok(Ok(()))) {
        tracing::warn!(%machine, "the simulated guest could not shut down");
    }
}
