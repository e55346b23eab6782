//! Threads that hash, compress and encrypt. Work is taken in the order it came; each thread keeps its own codec state.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::format::codec::Workspace;

type Job = Box<dyn FnOnce(&mut Workspace) + Send>;

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// A pool; one of no threads does each job when it is submitted. Dropping it lets the threads finish what is queued. Callers bound the queue by their byte budgets.
pub struct Pool {
    queue: Arc<Queue>,
    /// Set when there are no threads: jobs run in `submit`.
    inline: Option<Mutex<Workspace>>,
}

/// The outcome of a job, to be awaited.
pub type Outcome<T> = oneshot::Receiver<Result<T>>;

impl Pool {
    pub fn new(threads: usize) -> Result<Self> {
        let workspace = || Workspace::new().map_err(|_| Error::Internal("compressor set-up"));
        let inline = if threads == 0 { Some(Mutex::new(workspace()?)) } else { None };
        let pool = Self { queue: Arc::default(), inline };
        for number in 0..threads {
            let queue = Arc::clone(&pool.queue);
            let workspace = workspace()?;
            std::thread::Builder::new()
                .name(format!("repository-{number}"))
                .spawn(move || work(&queue, workspace))
                .map_err(|_| Error::Internal("thread start"))?;
        }
        Ok(pool)
    }

    /// Queues a job.
    pub fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Workspace) -> Result<T> + Send + 'static,
    ) -> Outcome<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |workspace| {
            let result = catch_unwind(AssertUnwindSafe(|| job(workspace)));
            // Nobody waits any more when the receiver is gone.
            let _ = sender.send(result.unwrap_or(Err(Error::Internal("a worker thread"))));
        });
        if let Some(workspace) = &self.inline {
            let mut workspace = workspace.lock();
            workspace.begin_job();
            job(&mut workspace);
            return receiver;
        }
        self.queue.state.lock().jobs.push_back(job);
        self.queue.wake.notify_one();
        receiver
    }

    /// Queues a job and waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Workspace) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        settle(self.submit(job)).await
    }
}

/// Waits for a job.
pub async fn settle<T>(outcome: Outcome<T>) -> Result<T> {
    outcome.await.unwrap_or(Err(Error::Internal("a worker thread")))
}

fn work(queue: &Queue, mut workspace: Workspace) {
    loop {
        let job = {
            let mut state = queue.state.lock();
            loop {
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                queue.wake.wait(&mut state);
            }
        };
        workspace.begin_job();
        job(&mut workspace);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.wake.notify_all();
    }
}
