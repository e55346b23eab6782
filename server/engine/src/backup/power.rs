//! A machine shut down for its backup, and switched on again whatever happens.
//!
//! Owns: the journal's part of it, the time a guest gets, the policy for one that does not go.
//! Must never: leave a machine off that was on, or switch one on that was off.
//! Read next: `reconcile/undo.rs`, which does it for a job that died.

use super::prepare::Source;
use crate::context::JobContext;
use crate::{errors, words};
use db::{ChangeId, ChangeKind};
use domain::job::{JobError, LogLevel};
use domain::machine::PowerState;
use domain::mode::IfStillOn;
use domain::point::Consistency;
use hypervisor::ShutDown;
use std::time::Duration;
use tokio::time::Instant;

/// A machine that does not start is tried so often before the job fails; the reconciler goes on.
const POWER_ON_TRIES_MAX: u32 = 3;

/// What became of the machine's power, and what the point has to say about it.
#[derive(Default)]
pub struct Power {
    asked: Option<Asked>,
    /// Of the guest's data, where the host cannot know better: the machine is off, but was not shut down.
    pub consistency: Option<Consistency>,
    /// For the point.
    pub warnings: Vec<String>,
}

/// A machine that was on and was asked to go off.
struct Asked {
    change_id: ChangeId,
    /// Since when it is off; else it may still go.
    off_since: Option<Instant>,
}

impl Power {
    /// Shuts the machine down when the task says so and it runs.
    pub async fn rest(&mut self, ctx: &JobContext, source: &mut Source) -> Result<(), JobError> {
        if !source.mode.shuts_down() {
            return Ok(());
        }
        match source.machine.power {
            PowerState::On => self.shut_down(ctx, source).await,
            PowerState::Off => {
                ctx.info("The machine is off already, and stays off.").await;
                Ok(())
            }
            PowerState::Suspended => {
                self.warn(
                    ctx,
                    "The machine is suspended, so it was not shut down: its disks are as after a power failure.",
                )
                .await;
                Ok(())
            }
        }
    }

    /// Switches the machine on again if it was on. Runs to its end even when the job is being stopped.
    pub async fn wake(&mut self, ctx: &JobContext, source: &Source) -> Result<(), JobError> {
        match self.asked.take() {
            None => Ok(()),
            Some(Asked { change_id, off_since: Some(since) }) => switch_on(ctx, source, change_id, since).await,
            Some(Asked { change_id, off_since: None }) => look_once_more(ctx, source, change_id).await,
        }
    }

    /// The same as soon as it may run again; a guest that was asked and did not go is looked at when the job ends.
    pub async fn wake_early(&mut self, ctx: &JobContext, source: &Source) -> Result<(), JobError> {
        if self.asked.as_ref().is_some_and(|asked| asked.off_since.is_some()) {
            return self.wake(ctx, source).await;
        }
        Ok(())
    }

    /// Someone else may have switched it on between the shutdown and the snapshot.
    pub async fn compare(&mut self, ctx: &JobContext, found: Consistency) {
        if self.asked.as_ref().is_some_and(|asked| asked.off_since.is_some()) && found != Consistency::Offline {
            self.consistency = None;
            self.warn(
                ctx,
                "Someone switched the machine on before its snapshot was made, so the point is not offline.",
            )
            .await;
        }
    }

    async fn shut_down(&mut self, ctx: &JobContext, source: &mut Source) -> Result<(), JobError> {
        ctx.phase("Shutting the machine down").await;
        ctx.check(&source.what)?;
        let config = ctx.config();
        let limit = Duration::from_secs(u64::from(source.shutdown.limit_minutes) * 60).min(config.shutdown_limit_max);
        let token = format!("stillframe-power-{}-{}", ctx.job.job_id, uuid::Uuid::new_v4().simple());
        let settles = limit + config.shutdown_settle;
        let change_id = ctx.journal(&source.change(ChangeKind::Power, token, Some(settles))).await?;
        self.asked = Some(Asked { change_id, off_since: None });
        ctx.info(&format!("The guest is asked to shut down. It gets {}.", words::duration(limit))).await;
        let began = Instant::now();
        match ask(ctx, source, limit).await? {
            ShutDown::Off => ctx.info(&format!("The machine is off after {}.", words::duration(began.elapsed()))).await,
            ShutDown::StillOn(why) if source.shutdown.if_still_on == IfStillOn::PowerOff => {
                self.power_off(ctx, source, &why).await?;
            }
            ShutDown::StillOn(why) if source.shutdown.if_still_on == IfStillOn::Hot => {
                self.warn(ctx, &format!("The machine was backed up running, because {why}.")).await;
                return Ok(());
            }
            ShutDown::StillOn(why) => return Err(still_on(source, &why, config.shutdown_settle)),
        }
        // Off, so it has to be switched on again: noted before anything else can fail.
        self.asked = Some(Asked { change_id, off_since: Some(Instant::now()) });
        source.machine.power = PowerState::Off;
        ctx.journal_made(change_id, None).await
    }

    async fn power_off(&mut self, ctx: &JobContext, source: &Source, why: &str) -> Result<(), JobError> {
        ctx.phase("Switching the machine off").await;
        ctx.check(&source.what)?;
        let off = source.host.power_off(&source.machine.reference).await;
        off.map_err(|error| errors::host(&source.what, &error))?;
        self.consistency = Some(Consistency::Crash);
        let text = format!("The machine was switched off, because {why}: its disks are as after a power failure.");
        self.warn(ctx, &text).await;
        Ok(())
    }

    /// For the log and the point.
    async fn warn(&mut self, ctx: &JobContext, text: &str) {
        ctx.warn(text).await;
        self.warnings.push(text.to_owned());
    }
}

/// Asks the guest and waits. After a broken-off attempt it may be starting still, and hear nothing yet: it is asked
/// again until its time is over.
async fn ask(ctx: &JobContext, source: &Source, limit: Duration) -> Result<ShutDown, JobError> {
    let deadline = Instant::now() + limit;
    let stopped = || JobError::cancelled(format!("{} The guest had been asked to shut down.", source.what));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = tokio::select! {
            answer = source.host.shut_down(&source.machine.reference, left) => answer,
            () = ctx.stop.token().cancelled() => return Err(stopped()),
        };
        let answer = answer.map_err(|error| errors::host(&source.what, &error))?;
        let pause = ctx.config().shutdown_ask_every;
        if answer == ShutDown::Off || ctx.job.attempt < 2 || Instant::now() + pause >= deadline {
            return Ok(answer);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ctx.stop.token().cancelled() => return Err(stopped()),
        }
    }
}

fn still_on(source: &Source, why: &str, settle: Duration) -> JobError {
    JobError::fail(
        "vm.still_on",
        source.what.as_str(),
        format!("It was to be shut down first, but {why}. It was left running."),
        format!(
            "Look at the guest and its tools; allow it more time, or choose in the task what happens then. Should it \
             go off within {} after all, it is switched on again.",
            words::duration(settle)
        ),
    )
}

/// A guest that was asked and still ran may have gone meanwhile. If not, the reconciler watches it for a while.
async fn look_once_more(ctx: &JobContext, source: &Source, change_id: ChangeId) -> Result<(), JobError> {
    match source.host.machine(&source.machine.reference).await {
        Ok(machine) if machine.power == PowerState::Off => switch_on(ctx, source, change_id, Instant::now()).await,
        Ok(_) => {
            ctx.info("Should the guest shut down late, the machine is switched on again.").await;
            ctx.left_behind();
            Ok(())
        }
        Err(_) => {
            ctx.left_behind();
            Ok(())
        }
    }
}

async fn switch_on(ctx: &JobContext, source: &Source, change_id: ChangeId, off_since: Instant) -> Result<(), JobError> {
    ctx.phase("Switching the machine on").await;
    match ctx.core.db.claim_power(change_id).await {
        // Our lease was lost, and who works on the machine now has taken care of it.
        Ok(false) => return Ok(()),
        Ok(true) => {}
        // Nobody is left without a machine for the sake of a line in the journal.
        Err(error) => tracing::warn!(job = %ctx.job.job_id, error = %errors::chain(&error), "journal"),
    }
    let mut tries = 1;
    let error = loop {
        match source.host.power_on(&source.machine.reference).await {
            Ok(()) => {
                ctx.heard(ctx.core.db.power_restored(change_id).await);
                let off = words::duration(off_since.elapsed());
                ctx.info(&format!("The machine is switched on again; it was off for {off}.")).await;
                return Ok(());
            }
            Err(error) if tries >= POWER_ON_TRIES_MAX => break error,
            Err(error) => {
                let pause = ctx.config().power_on_pause * tries;
                let (why, pause_words) = (errors::chain(&error), words::duration(pause));
                ctx.info(&format!("The machine did not start ({why}); next try in {pause_words}.")).await;
                tokio::time::sleep(pause).await;
                tries += 1;
            }
        }
    };
    Err(stays_off(ctx, source, change_id, &error).await)
}

/// The worst that can happen: said loudly, and left to the reconciler, which goes on trying.
async fn stays_off(ctx: &JobContext, source: &Source, change_id: ChangeId, error: &hypervisor::HostError) -> JobError {
    let what = format!(
        "{} on {} is off: it was shut down for its backup and could not be switched on again.",
        source.name, source.device_name
    );
    let cause = errors::host(&what, error);
    ctx.journal_failed(change_id, &cause).await;
    ctx.left_behind();
    let hint = "Switch it on in the host's console. The server goes on trying as well, every few minutes.";
    let error = JobError::fail("vm.not_switched_on", what, cause.why, hint);
    if ctx.stop.reason().is_some() {
        // The job ends as cancelled; this must not be lost with it.
        ctx.log(LogLevel::Error, &error.to_string()).await;
    }
    error
}
