//! Jobs: what a method starts when it answers 4096, and what its client polls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use super::host::Host;
use super::inject::Action;
use super::machine::guid;
use super::model::instance::Instance;
use super::model::path::ObjectPath;
use super::model::value::Value;
use crate::state::now;

/// Jobs that are remembered.
const JOBS_KEPT_MAX: usize = 2000;
/// `ErrorCode` of a job that failed for no better reason.
pub(crate) const FAILED: u16 = 32768;
/// `ErrorCode`: a parameter is invalid.
pub(crate) const INVALID_PARAMETER: u16 = 32773;
/// `ElementEffects` of what a job made, and of what it is about.
const EFFECT_CREATED: u64 = 5;
const EFFECT_UNKNOWN: u64 = 0;

/// `JobState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting = 3,
    Running = 4,
    Completed = 7,
    Terminated = 8,
    Exception = 10,
}

/// Why a job failed.
#[derive(Debug, Clone)]
pub(crate) struct JobError {
    pub code: u16,
    pub description: String,
}

impl JobError {
    pub fn new(code: u16, description: impl Into<String>) -> Self {
        Self { code, description: description.into() }
    }
}

impl From<crate::SimulatorError> for JobError {
    fn from(error: crate::SimulatorError) -> Self {
        let source = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        Self::new(FAILED, format!("{error}{source}"))
    }
}

/// What a job is and whom it is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// `Msvm_ConcreteJob`, or `Msvm_StorageJob` for the image service.
    pub class: &'static str,
    pub caption: String,
    /// The machine that can do nothing else meanwhile.
    pub machine: Option<Uuid>,
}

#[derive(Debug, Clone)]
struct Job {
    id: Uuid,
    subject: Subject,
    state: State,
    error: Option<JobError>,
    submitted: Timestamp,
    begun: Instant,
    ended: Option<Instant>,
    made: Vec<ObjectPath>,
    /// It did its work and waits to be told to end.
    hangs: bool,
}

/// The jobs of a host.
#[derive(Default)]
pub(crate) struct Jobs {
    all: Mutex<Vec<Job>>,
}

impl Jobs {
    /// Whether a job holds the machine.
    pub fn busy(&self, machine: Uuid) -> bool {
        self.all.lock().iter().any(|job| job.ended.is_none() && job.subject.machine == Some(machine))
    }

    fn begin(&self, subject: Subject, kept: Duration) -> Option<Uuid> {
        let mut all = self.all.lock();
        let holds = |job: &Job| job.ended.is_none() && job.subject.machine == subject.machine;
        if subject.machine.is_some() && all.iter().any(holds) {
            return None;
        }
        all.retain(|job| job.ended.is_none_or(|ended| ended.elapsed() < kept));
        if all.len() >= JOBS_KEPT_MAX {
            all.remove(0);
        }
        let id = Uuid::new_v4();
        let (submitted, begun) = (now(), Instant::now());
        let state = State::Starting;
        all.push(Job { id, subject, state, error: None, submitted, begun, ended: None, made: vec![], hangs: false });
        Some(id)
    }

    fn update(&self, id: Uuid, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.all.lock().iter_mut().find(|job| job.id == id) {
            change(job);
        }
    }

    fn finish(&self, id: Uuid, outcome: Result<Vec<ObjectPath>, JobError>) {
        self.update(id, |job| {
            job.ended = Some(Instant::now());
            match outcome {
                Ok(made) => (job.state, job.made) = (State::Completed, made),
                Err(error) => (job.state, job.error) = (State::Exception, Some(error)),
            }
        });
    }

    /// Ends a job that hangs; false when it is none that can be ended.
    pub fn terminate(&self, id: Uuid) -> bool {
        let mut all = self.all.lock();
        let Some(job) = all.iter_mut().find(|job| job.id == id && job.hangs && job.ended.is_none()) else {
            return false;
        };
        (job.state, job.ended) = (State::Terminated, Some(Instant::now()));
        true
    }

    /// All jobs as instances.
    pub fn instances(&self) -> Vec<Instance> {
        self.all.lock().iter().map(instance).collect()
    }

    /// What each job is about and what it made.
    pub fn effects(&self) -> Vec<Instance> {
        let mut rows = Vec::new();
        for job in self.all.lock().iter() {
            let row = |element: ObjectPath, effect: u64| {
                Instance::of("Msvm_AffectedJobElement")
                    .with("AffectedElement", element)
                    .with("AffectingElement", reference(job.subject.class, job.id))
                    .with("ElementEffects", vec![effect])
            };
            rows.extend(job.subject.machine.map(|id| row(super::inventory::machine_path(id), EFFECT_UNKNOWN)));
            rows.extend(job.made.iter().map(|path| row(path.clone(), EFFECT_CREATED)));
        }
        rows
    }
}

fn reference(class: &str, id: Uuid) -> ObjectPath {
    ObjectPath::instance(class, &guid(id))
}

fn instance(job: &Job) -> Instance {
    let elapsed = job.ended.unwrap_or_else(Instant::now).duration_since(job.begun);
    let (status, percent) = match job.state {
        State::Starting => ("Starting", 0u64),
        State::Running => ("Job is running", 50),
        State::Completed => ("Job completed successfully", 100),
        State::Terminated => ("Job terminated", 50),
        State::Exception => ("Job failed", 50),
    };
    let done = job.ended.is_some();
    let mut instance = Instance::of(job.subject.class)
        .with("InstanceID", guid(job.id))
        .with("Name", "Msvm_ConcreteJob")
        .with("Caption", job.subject.caption.as_str())
        .with("Description", job.subject.caption.as_str())
        .with("ElementName", job.subject.caption.as_str())
        .with("JobState", job.state as u64)
        .with("JobStatus", status)
        .with("PercentComplete", percent)
        .with("ElapsedTime", Value::Interval(elapsed.as_micros() as u64))
        .with("StartTime", job.submitted)
        .with("TimeSubmitted", job.submitted)
        .with("Cancellable", job.hangs)
        .with("DeleteOnCompletion", false)
        .with("ErrorCode", 0u64)
        .with("ErrorDescription", "")
        .with("ErrorSummaryDescription", "")
        .with("HealthState", 5u64)
        .with("OperationalStatus", vec![if done { 17u64 } else { 2 }])
        .with("LocalOrUtcTime", 2u64)
        .with("JobType", 0u64);
    if let Some(error) = &job.error {
        instance.set("ErrorCode", u64::from(error.code).into());
        instance.set("ErrorDescription", error.description.as_str().into());
        instance.set("ErrorSummaryDescription", error.description.as_str().into());
    }
    instance
}

/// Starts a job; `None` when the machine has one already. `work` runs on a thread of its own after the host's usual delay and
/// answers what it made.
pub(crate) fn start(
    host: &Arc<Host>,
    subject: Subject,
    injected: Option<Action>,
    work: impl FnOnce(&Arc<Host>) -> Result<Vec<ObjectPath>, JobError> + Send + 'static,
) -> Option<ObjectPath> {
    let class = subject.class;
    let id = host.jobs.begin(subject, host.config.limits.job_kept)?;
    let own = Arc::clone(host);
    host.runtime.spawn(async move {
        own.jobs.update(id, |job| job.state = State::Running);
        let extra = if let Some(Action::JobSlow(extra)) = &injected { *extra } else { Duration::ZERO };
        tokio::select! {
            () = tokio::time::sleep(own.config.limits.job_delay + extra) => {}
            () = own.stop.cancelled() => return,
        }
        let outcome = match &injected {
            Some(Action::JobFails { code, description }) => Err(JobError::new(*code, description)),
            Some(Action::JobNeverEnds) => return,
            _ => {
                let host = Arc::clone(&own);
                let joined = own.runtime.spawn_blocking(move || work(&host)).await;
                joined.unwrap_or_else(|_| Err(JobError::new(FAILED, "the job panicked")))
            }
        };
        match (injected, outcome) {
            (Some(Action::JobHangs), Ok(made)) => own.jobs.update(id, |job| (job.made, job.hangs) = (made, true)),
            (_, outcome) => own.jobs.finish(id, outcome),
        }
    });
    Some(reference(class, id))
}
