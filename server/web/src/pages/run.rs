//! One run: live progress by bytes, each machine with its disks, the log beside it.

use super::devices::record;
use super::tasks::method_word;
use super::{go, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::Fields;
use crate::format;
use crate::live::{Parts, Source, stream};
use crate::shell::{Section, Shell, Times};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use db::views::{self, DiskProgress, JobView, LogLine, RunHead};
use db::{RunId, RunKind};
use domain::job::{JobError, JobState, LogLevel};

/// Log lines shown at once; older ones are on the page with all of them.
const LOG_LINES: i64 = 400;
/// Lines of one message of the stream.
const LOG_LINES_A_MESSAGE: i64 = 100;

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    shell: Shell,
    run: RunHead,
    head: Head,
    jobs: Vec<JobPart>,
    log: Vec<LogLine>,
    /// The last line on the page, after which the stream goes on.
    after: i64,
}

/// The panel over everything.
#[derive(Template)]
#[template(path = "parts/run_head.html")]
struct Head {
    state: JobState,
    kind: RunKind,
    figures: Figures,
    times: Times,
    run: RunHead,
}

/// One machine.
#[derive(Template)]
#[template(path = "parts/run_job.html")]
struct JobPart {
    job: JobView,
    kind: RunKind,
    times: Times,
    /// The run has no other.
    alone: bool,
}

/// One line of the log.
#[derive(Template)]
#[template(path = "parts/log_line.html")]
struct LogPart<'a> {
    line: &'a LogLine,
    times: &'a Times,
}

#[derive(Debug, Default)]
struct Figures {
    total: u64,
    done: u64,
    stored: u64,
    speed: u64,
    jobs: u64,
    ended: u64,
    running: u64,
    waiting: u64,
    failed: u64,
    warnings: u64,
}

impl Figures {
    fn of(jobs: &[JobView]) -> Self {
        let mut figures = Self { jobs: jobs.len() as u64, ..Self::default() };
        for job in jobs {
            figures.total += job.bytes_total;
            figures.done += job.bytes_done.min(job.bytes_total);
            figures.stored += job.bytes_stored;
            figures.warnings += u64::try_from(job.warnings).unwrap_or_default();
            match job.state {
                JobState::Running => {
                    figures.running += 1;
                    figures.speed += job.bytes_per_second;
                }
                JobState::Queued => figures.waiting += 1,
                JobState::Failed => figures.failed += 1,
                JobState::Succeeded | JobState::Warning => figures.ended += 1,
                JobState::Cancelled => {}
            }
        }
        figures
    }

    fn percent(&self) -> u64 {
        format::percent(self.done, self.total)
    }

    fn left(&self) -> Option<u64> {
        (self.speed > 0 && self.waiting == 0).then(|| self.total.saturating_sub(self.done) / self.speed)
    }

    fn machines(&self) -> String {
        let mut words = vec!["done".to_owned()];
        for (count, word) in [(self.running, "running"), (self.waiting, "waiting"), (self.failed, "failed")] {
            if count > 0 {
                words.push(format!("{count} {word}"));
            }
        }
        words.join(", ")
    }
}

impl Head {
    fn bar_class(&self) -> String {
        format!("thick {}", ui::bar_class(self.state))
    }

    /// A finished run has a full bar, whatever its bytes were.
    fn percent(&self) -> u64 {
        match self.state {
            JobState::Succeeded | JobState::Warning => 100,
            _ => self.figures.percent(),
        }
    }

    fn is_over(&self) -> bool {
        self.state.is_final()
    }

    fn took(&self) -> String {
        super::activity::took(self.run.created_at, self.run.finished_at.unwrap_or(self.times.now))
    }

    /// Bytes a second over the whole run.
    fn average(&self) -> u64 {
        let end = self.run.finished_at.unwrap_or(self.times.now);
        let seconds = (end.as_second() - self.run.created_at.as_second()).max(1);
        self.figures.done / seconds.unsigned_abs()
    }
}

impl JobPart {
    fn percent(&self) -> u64 {
        match self.job.state {
            JobState::Succeeded | JobState::Warning => 100,
            _ => format::percent(self.job.bytes_done, self.job.bytes_total),
        }
    }

    fn word(&self) -> Html {
        let job = &self.job;
        match job.state {
            JobState::Running if job.cancel_requested => ui::st(Tone::Idle, "Stopping"),
            JobState::Running if job.bytes_total > 0 && job.bytes_done < job.bytes_total => {
                ui::st(Tone::Run, if self.kind == RunKind::Backup { "Copying" } else { "Writing" })
            }
            JobState::Queued if job.attempt > 0 => ui::st(Tone::Warn, "Tries again"),
            state => ui::state(state),
        }
    }

    /// Right side under the bar.
    fn remark(&self) -> Html {
        let job = &self.job;
        let text = match job.state {
            JobState::Running if job.bytes_per_second > 0 && job.bytes_done < job.bytes_total => {
                let left = (job.bytes_total - job.bytes_done) / job.bytes_per_second;
                format!("{} left", format::duration(left))
            }
            JobState::Queued if job.attempt > 0 => {
                return Html(format!("next try {}", self.times.ago(job.run_after)));
            }
            _ => match job.finished_at {
                Some(at) => return Html(format!("at {}", self.times.clock(at))),
                None => String::new(),
            },
        };
        Html(ui::escape(&text))
    }

    fn bytes(&self) -> String {
        let job = &self.job;
        match job.state {
            JobState::Queued => String::new(),
            JobState::Running if job.bytes_total == 0 => String::new(),
            JobState::Running => {
                let speed = if job.bytes_per_second > 0 {
                    format!(" · {}", format::speed(job.bytes_per_second))
                } else {
                    String::new()
                };
                format!("{}{speed}", format::bytes_of(job.bytes_done, job.bytes_total))
            }
            JobState::Failed | JobState::Cancelled if job.bytes_done == 0 => String::new(),
            _ if self.kind == RunKind::Cleanup => String::new(),
            _ if self.kind == RunKind::Backup => {
                format!("{} read, {} stored", format::bytes(job.bytes_done), format::bytes(job.bytes_stored))
            }
            _ => format!("{} written", format::bytes(job.bytes_done)),
        }
    }

    fn disk_percent(&self, disk: &DiskProgress) -> u64 {
        if disk.bytes_total == 0 && matches!(self.job.state, JobState::Succeeded | JobState::Warning) {
            return 100;
        }
        format::percent(disk.bytes_done, disk.bytes_total)
    }

    fn disk_label(&self, disk: &DiskProgress) -> String {
        format!("{}, {}", self.job.name, disk.label)
    }

    fn disk_words(&self, disk: &DiskProgress) -> String {
        if disk.bytes_total == 0 {
            return if self.job.state.is_final() { "nothing changed".to_owned() } else { "waiting".to_owned() };
        }
        format::bytes_of(disk.bytes_done, disk.bytes_total)
    }

    fn disk_class(&self, disk: &DiskProgress) -> &'static str {
        if disk.bytes_done >= disk.bytes_total && disk.bytes_total > 0 { "p-ok" } else { ui::bar_class(self.job.state) }
    }

    fn bar_class(&self) -> &'static str {
        ui::bar_class(self.job.state)
    }

    fn failed(&self) -> bool {
        self.job.state == JobState::Failed
    }

    fn verb(&self) -> &'static str {
        match self.kind {
            RunKind::Backup => "backed up",
            RunKind::Restore => "restored",
            RunKind::Cleanup => "cleaned up",
        }
    }
}

impl LogPart<'_> {
    fn class(&self) -> Html {
        Html(match self.line.level {
            LogLevel::Info => String::new(),
            LogLevel::Warning => r#" class="l-warn""#.to_owned(),
            LogLevel::Error => r#" class="l-bad""#.to_owned(),
        })
    }

    fn icon(&self) -> Html {
        match self.line.level {
            LogLevel::Info => Html("<span></span>".to_owned()),
            LogLevel::Warning => Tone::Warn.icon(),
            LogLevel::Error => Tone::Bad.icon(),
        }
    }

    fn word(&self) -> &'static str {
        match self.line.level {
            LogLevel::Info => "",
            LogLevel::Warning => "Warning. ",
            LogLevel::Error => "Error. ",
        }
    }
}

impl RunPage {
    /// What ended it at the end of its task's hours.
    fn hours_ended(&self) -> Option<&JobError> {
        let errors = self.jobs.iter().filter(|part| part.job.state == JobState::Cancelled);
        errors.filter_map(|part| part.job.error.as_ref()).find(|error| error.code == "schedule.window_ended")
    }

    fn log_line(&self, line: &LogLine) -> Html {
        Html(LogPart { line, times: &self.shell.times }.render().unwrap_or_default())
    }

    fn simulated(&self) -> bool {
        self.jobs.iter().any(|part| part.job.simulated)
    }

    fn lede(&self) -> Html {
        let run = &self.run;
        let by = if run.started_by == "schedule" {
            "by schedule".to_owned()
        } else {
            format!("by {}", ui::escape(&run.started_by))
        };
        let what = match (&run.kind, &run.method, &run.repository) {
            (RunKind::Backup, Some(method), Some(repository)) => {
                let mode = match run.mode.as_deref() {
                    Some("cold") => "cold",
                    Some("cold_snapshot") => "from a cold snapshot",
                    _ => "hot",
                };
                format!(" {}, {mode}, to {}.", method_word(method), ui::escape(repository))
            }
            _ => String::new(),
        };
        let verb = if run.skipped.is_some() { "Left out" } else { "Started" };
        Html(format!("{verb} {} {by}.{what}", self.shell.times.moment(run.created_at)))
    }
}

async fn head_and_jobs(app: &App, run: RunId) -> Result<(RunHead, Head, Vec<JobPart>)> {
    let run = views::run_head(app.db(), run).await?.ok_or(Failure::NotFound)?;
    let jobs = views::jobs_of(app.db(), run.run_id).await?;
    let times = app.times();
    let figures = Figures::of(&jobs);
    let head = Head { state: run.state, kind: run.kind, figures, times: times.clone(), run: run.clone() };
    let (kind, alone) = (run.kind, jobs.len() == 1);
    let parts = jobs.into_iter().map(|job| JobPart { job, kind, times: times.clone(), alone }).collect();
    Ok((run, head, parts))
}

/// `GET /activity/{run}`
pub async fn one(State(app): State<App>, session: Session, Path(run): Path<RunId>) -> Result {
    let (run, head, jobs) = head_and_jobs(&app, run).await?;
    let log = views::log_of(app.db(), run.run_id, 0, LOG_LINES).await?;
    let after = log.last().map_or(0, |line| line.log_id);
    let shell = Shell::new(&app, &session, Section::Activity, format!("{}, run {}", run.title, run.run_id)).await?;
    page(&RunPage { shell, run, head, jobs, log, after })
}

struct Watch {
    run: RunId,
    after: i64,
}

impl Source for Watch {
    fn concerns(&self, event: &db::Event) -> bool {
        *event == db::Event::RunChanged(self.run)
    }

    async fn look(&mut self, app: &App) -> Result<Parts> {
        let (run, head, jobs) = head_and_jobs(app, self.run).await?;
        let log = views::log_of(app.db(), self.run, self.after, LOG_LINES_A_MESSAGE).await?;
        let times = app.times();
        let mut parts =
            Parts { id: log.last().map(|line| line.log_id), done: run.state.is_final(), ..Parts::default() };
        parts.replace.push(("run-sum".to_owned(), head.render()?));
        for job in jobs {
            parts.replace.push((format!("job-{}", job.job.job_id), job.render()?));
        }
        let mut lines = String::new();
        for line in &log {
            lines.push_str(&LogPart { line, times: &times }.render()?);
        }
        if !lines.is_empty() {
            parts.append.push(("log".to_owned(), lines));
        }
        self.after = parts.id.unwrap_or(self.after);
        Ok(parts)
    }
}

/// `GET /live/run/{run}`
pub async fn live(
    State(app): State<App>,
    _: Session,
    Path(run): Path<RunId>,
    fields: Fields,
    headers: HeaderMap,
) -> Result<Response> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let after = last.or_else(|| fields.number("after")).unwrap_or(0);
    views::run_head(app.db(), run).await?.ok_or(Failure::NotFound)?;
    Ok(stream(app, Watch { run, after }).await?.into_response())
}

/// `POST /activity/{run}/cancel`
pub async fn cancel(State(app): State<App>, session: Session, Path(run): Path<RunId>) -> Result {
    app.db().request_cancel_run(run, &session.name).await?;
    record(&app, &session, "run.cancelled", &run.to_string(), "").await?;
    go(format!("/activity/{run}?said=run-cancelled"))
}

/// `POST /activity/{run}/retry`
pub async fn retry(State(app): State<App>, session: Session, Path(run): Path<RunId>) -> Result {
    app.db().retry_failed(run).await?;
    record(&app, &session, "run.retried", &run.to_string(), "").await?;
    go(format!("/activity/{run}?said=retry-queued"))
}
