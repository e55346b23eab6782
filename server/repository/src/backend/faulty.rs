//! A backend that fails where a test wants it to: the n-th operation, or everything after it, as a crash would.

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{BackendError, BackendErrorKind, ObjectBackend, ObjectInfo};

/// What happens at an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect; later ones work.
    Fail(BackendErrorKind),
    /// It takes effect, then reports failure (a lost reply); later ones work.
    FailAfter(BackendErrorKind),
    /// It has no effect, and nothing works any more.
    CrashBefore,
    /// It takes effect, and nothing works any more.
    CrashAfter,
}

#[derive(Debug, Default)]
struct Plan {
    operations: u64,
    at: Option<(u64, Fault)>,
    creates_only: bool,
    crashed: bool,
}

/// Wraps another backend. Counts operations from 0.
#[derive(Debug, Clone)]
pub struct FaultyBackend {
    inner: Arc<dyn ObjectBackend>,
    plan: Arc<Mutex<Plan>>,
}

enum Step {
    Pass,
    Before(BackendErrorKind),
    After(BackendErrorKind),
}

impl FaultyBackend {
    /// Passes everything on until told otherwise.
    pub fn new(inner: Arc<dyn ObjectBackend>) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// `fault` happens at the operation numbered `operation` from now on, counting all verbs.
    pub fn inject(&self, operation: u64, fault: Fault) {
        *self.plan.lock() = Plan { at: Some((operation, fault)), ..Plan::default() };
    }

    /// The same, counting `put_new` and `delete` only.
    pub fn inject_at_change(&self, operation: u64, fault: Fault) {
        *self.plan.lock() = Plan { at: Some((operation, fault)), creates_only: true, ..Plan::default() };
    }

    /// Operations counted since the last `inject` (or since the start).
    pub fn operations(&self) -> u64 {
        self.plan.lock().operations
    }

    fn step(&self, changes: bool) -> Step {
        let mut plan = self.plan.lock();
        if plan.crashed {
            return Step::Before(BackendErrorKind::Other);
        }
        if plan.creates_only && !changes {
            return Step::Pass;
        }
        let number = plan.operations;
        plan.operations += 1;
        match plan.at {
            Some((at, fault)) if at == number => match fault {
                Fault::Fail(kind) => Step::Before(kind),
                Fault::FailAfter(kind) => Step::After(kind),
                Fault::CrashBefore => {
                    plan.crashed = true;
                    Step::Before(BackendErrorKind::Other)
                }
                Fault::CrashAfter => {
                    plan.crashed = true;
                    Step::After(BackendErrorKind::Other)
                }
            },
            _ => Step::Pass,
        }
    }

    fn error(&self, kind: BackendErrorKind, verb: &'static str, name: &str) -> BackendError {
        let source = Arc::new(std::io::Error::other("injected fault"));
        BackendError { kind, verb, name: name.to_owned(), place: self.place(), source: Some(source) }
    }
}

macro_rules! faulty {
    ($self:ident, $verb:literal, $name:ident, $changes:literal, $call:expr) => {
        match $self.step($changes) {
            Step::Pass => $call.await,
            Step::Before(kind) => Err($self.error(kind, $verb, $name)),
            Step::After(kind) => {
                let _done = $call.await?;
                Err($self.error(kind, $verb, $name))
            }
        }
    };
}

#[async_trait::async_trait]
impl ObjectBackend for FaultyBackend {
    fn place(&self) -> String {
        format!("{} with faults", self.inner.place())
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        faulty!(self, "store", name, true, self.inner.put_new(name, parts))
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        faulty!(self, "read", name, false, self.inner.get(name, range))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        faulty!(self, "list", prefix, false, self.inner.list(prefix))
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        faulty!(self, "look up", name, false, self.inner.stat(name))
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        faulty!(self, "delete", name, true, self.inner.delete(name))
    }

    async fn sync(&self, name: &str) -> Result<(), BackendError> {
        self.inner.sync(name).await
    }

    fn list_lag(&self) -> Duration {
        self.inner.list_lag()
    }

    fn lock_needed_until(&self) -> Option<Timestamp> {
        self.inner.lock_needed_until()
    }

    async fn extend_lock(&self, name: &str) -> Result<Option<Timestamp>, BackendError> {
        faulty!(self, "lock", name, false, self.inner.extend_lock(name))
    }
}
