//! Tasks: what a `…_Task` method starts, and what its client polls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::fault::SoapFault;
use super::host::{Host, now};
use super::inject::Action;
use super::machine::Machine;
use super::value::{MoRef, Object, Value};

/// Tasks that are remembered.
const TASKS_KEPT_MAX: usize = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskState {
    Queued,
    Running,
    Success,
    Error,
}

#[derive(Debug, Clone)]
struct Task {
    method: &'static str,
    entity: MoRef,
    entity_name: String,
    user: String,
    state: TaskState,
    cancelled: bool,
    outcome: Option<Result<Option<Value>, SoapFault>>,
    queued: Timestamp,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
}

/// The tasks of a host.
#[derive(Default)]
pub(crate) struct Tasks {
    all: Mutex<(u64, BTreeMap<u64, Task>)>,
}

/// What a task is about.
pub(crate) struct Subject {
    pub method: &'static str,
    pub entity: MoRef,
    pub entity_name: String,
    pub user: String,
}

fn reference(number: u64) -> MoRef {
    MoRef::new("Task", format!("haTask-{number}"))
}

fn number_of(id: &str) -> Option<u64> {
    id.strip_prefix("haTask-")?.parse().ok()
}

impl Tasks {
    fn add(&self, subject: Subject) -> u64 {
        let mut all = self.all.lock();
        all.0 += 1;
        let number = all.0;
        let Subject { method, entity, entity_name, user } = subject;
        let task = Task {
            method,
            entity,
            entity_name,
            user,
            state: TaskState::Queued,
            cancelled: false,
            outcome: None,
            queued: now(),
            started: None,
            completed: None,
        };
        all.1.insert(number, task);
        while all.1.len() > TASKS_KEPT_MAX {
            all.1.pop_first();
        }
        number
    }

    fn update(&self, number: u64, change: impl FnOnce(&mut Task)) {
        if let Some(task) = self.all.lock().1.get_mut(&number) {
            change(task);
        }
    }

    fn finish(&self, number: u64, outcome: Result<Option<Value>, SoapFault>) {
        self.update(number, |task| {
            task.state = if outcome.is_ok() { TaskState::Success } else { TaskState::Error };
            task.outcome = Some(outcome);
            task.completed = Some(now());
        });
    }

    fn is_cancelled(&self, number: u64) -> bool {
        self.all.lock().1.get(&number).is_none_or(|task| task.cancelled)
    }

    /// Asks a task to stop. Only a task that stalls does.
    pub fn cancel(&self, id: &str) -> bool {
        let Some(number) = number_of(id) else { return false };
        let mut found = false;
        self.update(number, |task| {
            task.cancelled = true;
            found = true;
        });
        found
    }

    pub fn exists(&self, id: &str) -> bool {
        number_of(id).is_some_and(|number| self.all.lock().1.contains_key(&number))
    }

    /// The newest tasks on an object.
    pub fn recent(&self, entity: &MoRef) -> Vec<MoRef> {
        let all = self.all.lock();
        all.1
            .iter()
            .rev()
            .filter(|(_, task)| task.entity == *entity)
            .take(5)
            .map(|(&number, _)| reference(number))
            .collect()
    }

    /// The `info` of a task.
    pub fn info(&self, id: &str) -> Option<Object> {
        let number = number_of(id)?;
        let task = self.all.lock().1.get(&number)?.clone();
        let state = match task.state {
            TaskState::Queued => "queued",
            TaskState::Running => "running",
            TaskState::Success => "success",
            TaskState::Error => "error",
        };
        let description = format!("{}.{}", task.entity.kind, task.method.trim_end_matches("_Task"));
        let (result, error) = match &task.outcome {
            Some(Ok(result)) => (result.clone(), None),
            Some(Err(fault)) => (None, Some(fault.localized())),
            None => (None, None),
        };
        let progress = (task.state == TaskState::Running).then_some(Value::Int(50));
        Some(
            Object::new("TaskInfo")
                .with("key", reference(number).id)
                .with("task", reference(number))
                .with("name", task.method)
                .with("descriptionId", description)
                .with("entity", &task.entity)
                .with("entityName", task.entity_name)
                .with("state", Value::enumeration("TaskInfoState", state))
                .with("cancelled", task.cancelled)
                .with("cancelable", false)
                .maybe("error", error)
                .maybe("result", result)
                .maybe("progress", progress)
                .with("reason", Object::new("TaskReasonUser").with("userName", task.user))
                .with("queueTime", task.queued)
                .maybe("startTime", task.started)
                .maybe("completeTime", task.completed)
                .with("eventChainId", number as i32),
        )
    }
}

/// Starts a task. `work` runs on a thread of its own after the host's usual delay.
pub(crate) fn start(
    host: &Arc<Host>,
    subject: Subject,
    injected: Option<Action>,
    work: impl FnOnce(&Arc<Host>) -> Result<Option<Value>, SoapFault> + Send + 'static,
    done: impl FnOnce() + Send + 'static,
) -> MoRef {
    let number = host.tasks.add(subject);
    let own = Arc::clone(host);
    host.runtime.spawn(async move {
        own.tasks.update(number, |task| {
            task.state = TaskState::Running;
            task.started = Some(now());
        });
        let extra = if let Some(Action::TaskSlow(extra)) = injected { extra } else { Duration::ZERO };
        tokio::select! {
            () = tokio::time::sleep(own.config.limits.task_delay + extra) => {}
            () = own.stop.cancelled() => return,
        }
        let outcome = match injected {
            Some(Action::TaskFails { name, message }) => Err(SoapFault::new(name, message)),
            Some(Action::TaskStalls) => stall(&own, number).await,
            _ => {
                let host = Arc::clone(&own);
                let joined = own.runtime.spawn_blocking(move || work(&host)).await;
                joined.unwrap_or_else(|_| Err(SoapFault::system("task panicked")))
            }
        };
        done();
        own.tasks.finish(number, outcome);
    });
    reference(number)
}

async fn stall(host: &Host, number: u64) -> Result<Option<Value>, SoapFault> {
    while !host.tasks.is_cancelled(number) && !host.stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(SoapFault::new("RequestCanceled", "The task was canceled by a user."))
}

/// Starts a task on a machine, which can only have one at a time.
pub(crate) fn start_on_machine(
    host: &Arc<Host>,
    machine: &Arc<Mutex<Machine>>,
    method: &'static str,
    user: &str,
    injected: Option<Action>,
    work: impl FnOnce(&Arc<Host>, &Arc<Mutex<Machine>>) -> Result<Option<Value>, SoapFault> + Send + 'static,
) -> Result<MoRef, SoapFault> {
    let mut locked = machine.lock();
    if let Some(task) = &locked.busy {
        return Err(SoapFault::busy(task));
    }
    let subject = Subject { method, entity: locked.moref(), entity_name: locked.name.clone(), user: user.to_owned() };
    let (worker, finisher) = (Arc::clone(machine), Arc::clone(machine));
    let task = start(host, subject, injected, move |host| work(host, &worker), move || finisher.lock().busy = None);
    locked.busy = Some(task.clone());
    Ok(task)
}
