//! Methods that start a job, and the job's end.
//!
//! A job goes on without us, so a look that fails is repeated. The class to look at is the returned reference's own:
//! image services return `Msvm_StorageJob`.

use super::call::{bad_answer, get, invoke, is_wmi};
use super::{Arguments, Instance, Reference};
use crate::hyperv::wire::{CallError, Fault, Wsman};
use crate::{ErrorKind, HostError};
use std::time::Duration;
use tokio::time::Instant;

/// Return values of a method that did it, and of one that started a job.
const DONE: u64 = 0;
const STARTED: u64 = 4096;
/// `JobState`: new, starting, running, suspended, shutting down, service; completed; completed with warnings.
const RUNNING: [u64; 6] = [2, 3, 4, 5, 6, 11];
const COMPLETED: [u64; 2] = [7, 32768];
/// `RequestedState` that stops a job.
const TERMINATE: u32 = 4;

const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Looks in a row that may fail.
const MAX_FAILED_LOOKS: u32 = 20;

/// What a method gave, and the job it started if it did not answer at once.
#[derive(Debug)]
pub(in crate::hyperv) struct Called {
    pub output: Instance,
    pub job: Option<Reference>,
}

/// Calls a method, and waits for its job within `budget`. Any end but success is a fault with the host's words.
pub(in crate::hyperv) async fn run(
    wsman: &dyn Wsman,
    target: &Reference,
    method: &str,
    arguments: Arguments,
    budget: Duration,
) -> Result<Called, CallError> {
    let called = start(wsman, target, method, arguments).await?;
    if let Some(job) = &called.job {
        wait(wsman, job, method, budget).await?;
    }
    Ok(called)
}

/// Calls a method. Its job, if it started one, is for [`wait`].
pub(in crate::hyperv) async fn start(
    wsman: &dyn Wsman,
    target: &Reference,
    method: &str,
    arguments: Arguments,
) -> Result<Called, CallError> {
    let output = invoke(wsman, target, method, arguments, false).await?;
    match output.number("ReturnValue") {
        Some(DONE) => Ok(Called { output, job: None }),
        Some(STARTED) => {
            let job = output.reference("Job").filter(|job| is_wmi(job)).cloned();
            let job = job.ok_or_else(|| bad_answer(wsman, method, "it started a job and did not say which"))?;
            Ok(Called { output, job: Some(job) })
        }
        Some(code) => Err(Fault::from_return(code).into()),
        None => Err(bad_answer(wsman, method, "its answer has no return value")),
    }
}

/// Waits until a job ends. One that passes `budget` is asked to stop, and reported as timed out.
pub(in crate::hyperv) async fn wait(
    wsman: &dyn Wsman,
    job: &Reference,
    method: &str,
    budget: Duration,
) -> Result<(), CallError> {
    let deadline = Instant::now() + budget;
    let mut pause = (wsman.timeouts().back_off / 5).max(Duration::from_millis(1));
    let mut failed = 0;
    loop {
        match get(wsman, job).await {
            Ok(state) => {
                failed = 0;
                match state.number("JobState") {
                    Some(code) if COMPLETED.contains(&code) => return Ok(()),
                    Some(code) if RUNNING.contains(&code) => {}
                    Some(code) => return Err(CallError::Fault(end_of(&state, code))),
                    None => return Err(bad_answer(wsman, method, "its job has no state")),
                }
            }
            Err(error) if error.is_passing() && failed < MAX_FAILED_LOOKS => failed += 1,
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            let stop = Arguments::default().text("RequestedState", TERMINATE);
            let _ = invoke(wsman, job, "RequestStateChange", stop, false).await;
            return Err(timed_out(wsman, job, method, budget));
        }
        tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

fn end_of(state: &Instance, code: u64) -> Fault {
    let words = [state.text("ErrorDescription"), state.text("ErrorSummaryDescription"), state.text("JobStatus")];
    let said = words.into_iter().flatten().next().unwrap_or_default();
    let how = match code {
        8 => "The job was terminated",
        9 => "The job was killed",
        10 => "The job failed",
        _ => "The job ended in an unknown state",
    };
    let error = state.number("ErrorCode").and_then(|code| u32::try_from(code).ok()).unwrap_or(32768);
    let mut fault = Fault::from_code(error, &format!("{how}: {said}"));
    if said.is_empty() {
        how.clone_into(&mut fault.message);
    }
    fault
}

/// Whether a job goes on. One that the host has forgotten does not.
pub(in crate::hyperv) async fn is_running(wsman: &dyn Wsman, job: &Reference) -> Result<bool, CallError> {
    match get(wsman, job).await {
        Ok(state) => Ok(state.number("JobState").is_some_and(|code| RUNNING.contains(&code))),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn timed_out(wsman: &dyn Wsman, job: &Reference, method: &str, budget: Duration) -> CallError {
    let id = job.selector("InstanceID").unwrap_or("without an id");
    let time = match budget.as_secs() {
        seconds @ ..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds.div_ceil(60)),
    };
    CallError::Host(HostError {
        kind: ErrorKind::Timeout,
        code: "hyperv.job_timeout",
        host: wsman.host().to_owned(),
        attempt: method.to_owned(),
        reason: format!("the host's job for {method} ({id:.100}) did not end within {time}"),
        hint: "See the machine's status in Hyper-V Manager; a slow or full volume is the usual cause.".into(),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::script::{Script, started, state};
    use crate::hyperv::wmi::service;

    async fn do_it(script: &Script) -> Result<Called, CallError> {
        run(script, &service("Msvm_ImageManagementService"), "Do", Arguments::default(), Duration::from_secs(60)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_is_looked_at_by_the_class_of_its_reference() {
        let script = Script::new([started("Do", "Msvm_StorageJob"), state(4, ""), state(7, "")]);
        assert!(do_it(&script).await.unwrap().job.is_some());
        let asked = script.asked();
        assert!(asked[1].resource.ends_with("/Msvm_StorageJob"));
        assert_eq!(asked[1].selectors, [("InstanceID".to_owned(), "J".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_method_may_answer_at_once() {
        let script = Script::new([Ok("<Do_OUTPUT><ReturnValue>0</ReturnValue></Do_OUTPUT>")]);
        assert!(do_it(&script).await.unwrap().job.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_and_failed_jobs_keep_their_words() {
        let script = Script::new([Ok("<Do_OUTPUT><ReturnValue>32775</ReturnValue></Do_OUTPUT>")]);
        let error = do_it(&script).await.unwrap_err().during("h", "a");
        assert_eq!((error.kind, error.code), (ErrorKind::Busy, "hyperv.invalid_state"));
        let failed = "<ErrorCode>32769</ErrorCode><ErrorDescription>'web' may not.</ErrorDescription>";
        let script = Script::new([started("Do", "Msvm_ConcreteJob"), state(10, failed)]);
        let error = do_it(&script).await.unwrap_err().during("h", "a");
        assert_eq!(error.kind, ErrorKind::Permission);
        assert_eq!(error.to_string(), "h: a: The job failed: 'web' may not. (32769)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_fails_is_repeated() {
        let script = Script::new([started("Do", "Msvm_ConcreteJob"), Err("QuotaLimit"), state(4, ""), state(7, "")]);
        do_it(&script).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_never_ends_is_stopped() {
        let answers = (0..70).map(|n| if n == 0 { started("Do", "Msvm_ConcreteJob") } else { state(4, "") });
        let script = Script::new(answers);
        let error = do_it(&script).await.unwrap_err();
        let error = error.during("h", "make a checkpoint");
        assert_eq!(error.code, "hyperv.job_timeout");
        assert!(error.reason.contains("Do (J) did not end within 60 seconds"), "{error}");
        assert!(script.asked().last().unwrap().action.ends_with("/Msvm_ConcreteJob/RequestStateChange"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_without_a_reference_is_a_broken_answer() {
        let script = Script::new([Ok("<Do_OUTPUT><ReturnValue>4096</ReturnValue></Do_OUTPUT>")]);
        let error = do_it(&script).await.unwrap_err();
        assert!(matches!(error, CallError::Host(error) if error.kind == ErrorKind::Protocol));
    }
}
