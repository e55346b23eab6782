//! Waiting for a task of the host.

use super::fault::Fault;
use super::property::{bad_answer, of_object};
use super::session::Vim;
use super::soap::{CallError, Request};
use super::xml::{MoRef, Node};
use crate::{ErrorKind, HostError};
use std::time::Duration;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Polls in a row that may fail; the task goes on without us.
const MAX_FAILED_POLLS: u32 = 20;

/// Waits until the task ends, and returns its result (an empty node when it has none). A task that passes `budget` is
/// asked to stop, and reported as timed out. A poll that fails is repeated: the task does not depend on it.
pub(super) async fn wait(vim: &dyn Vim, task: &MoRef, budget: Duration) -> Result<Node, CallError> {
    let deadline = Instant::now() + budget;
    let mut pause = FIRST_PAUSE;
    let mut failed = 0;
    loop {
        match of_object(vim, task, &["info"]).await {
            Ok(object) => {
                failed = 0;
                let info = object.get("info").ok_or_else(|| bad_answer(vim, "wait for a task", "it has no state"))?;
                match info.text_at(&["state"]) {
                    Some("success") => return Ok(info.child("result").cloned().unwrap_or_default()),
                    Some("error") => {
                        let fault = info.child("error").map(Fault::from_localized).unwrap_or_default();
                        return Err(CallError::Fault(fault));
                    }
                    _ => {}
                }
            }
            Err(CallError::Host(error)) if error.kind.is_transient() && failed < MAX_FAILED_POLLS => failed += 1,
            Err(CallError::Fault(fault)) if fault.name == "SystemError" && failed < MAX_FAILED_POLLS => failed += 1,
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            let _ = vim.call(Request::new("CancelTask", task, |_| {})).await;
            return Err(timed_out(vim, budget));
        }
        tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Calls a method that returns a task, and waits for it.
pub(super) async fn run(vim: &dyn Vim, request: Request, budget: Duration) -> Result<Node, CallError> {
    let answer = vim.call(request).await?;
    let task = super::property::returned_reference(vim, &answer)?;
    wait(vim, &task, budget).await
}

fn timed_out(vim: &dyn Vim, budget: Duration) -> CallError {
    CallError::Host(HostError {
        kind: ErrorKind::Timeout,
        code: "esxi.task_timeout",
        host: vim.host().to_owned(),
        attempt: "wait for a task".into(),
        reason: format!("it did not end within {} minutes", budget.as_secs().div_ceil(60)),
        hint: "See the host's recent tasks; a slow or full datastore is the usual cause.".into(),
        source: None,
    })
}
