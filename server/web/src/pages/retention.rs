//! What retention says about points: why each stays and when it goes; pins, and a location's floor.
//! Read next: `retention_preview.rs` (what a rule would do before it is saved).

use super::devices::record;
use super::go;
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::Fields;
use crate::format;
use crate::shell::Times;
use crate::state::App;
use crate::ui::{self, Html};
use axum::extract::{Path, State};
use db::views::{self, PointLine};
use db::{MachinePoints, Outlook, PIN_NOTE_MAX_CHARS, PointId, RepositoryId, VmId};
use domain::job::{JobState, LogLevel};
use domain::retention::{AGE_MAX_DAYS, Fate, Floor, NUMBER_MAX, Reason};
use jiff::{SignedDuration, Timestamp};

/// Looked ahead so far; what stays longer is said to stay at least so long.
const AHEAD: SignedDuration = SignedDuration::from_hours(5 * 366 * 24);
/// Lines of the last clean-up on a location's page.
const CLEAN_UP_LINES_MAX: usize = 20;
/// Lines that are looked through for them.
const CLEAN_UP_LOG_LINES: u32 = 600;

/// What is expected of a machine's points, by point.
#[derive(Default)]
pub struct Outlooks(Vec<Outlook>);

impl Outlooks {
    /// Of a machine, wherever its points are.
    pub async fn of_machine(app: &App, vm: VmId) -> Result<Self> {
        let machines = app.db().retention_of_machine(vm).await?;
        Ok(Self::of(&machines, app.now()))
    }

    /// Of a machine in one location; of none when the machine is not known any more.
    pub async fn in_location(app: &App, repository: RepositoryId, vm: Option<VmId>) -> Result<Self> {
        let Some(vm) = vm else { return Ok(Self::default()) };
        let machines = app.db().retention_of(repository, &[vm]).await?;
        Ok(Self::of(&machines, app.now()))
    }

    fn of(machines: &[MachinePoints], now: Timestamp) -> Self {
        Self(machines.iter().flat_map(|machine| machine.outlook(now, AHEAD)).collect())
    }

    /// Why a point stays, and until when.
    pub fn words(&self, point: &PointId, times: &Times) -> (String, String) {
        let Some(outlook) = self.0.iter().find(|it| it.point_id == *point) else {
            return ("its machine is not known here any more".to_owned(), "stays".to_owned());
        };
        let reasons: Vec<String> = outlook.reasons.iter().map(ToString::to_string).collect();
        let why = if reasons.is_empty() { "no rule keeps it".to_owned() } else { reasons.join(", ") };
        (why, until(outlook, times))
    }

    /// The same for a table's cell.
    pub fn cell(&self, point: &PointLine, times: &Times) -> Html {
        let (why, until) = self.words(&point.point_id, times);
        Html(format!(r#"{}<span class="sub">{}</span>"#, ui::escape(&why), ui::escape(&until)))
    }
}

fn until(outlook: &Outlook, times: &Times) -> String {
    let only_busy = matches!(outlook.reasons.as_slice(), [Reason::Busy(_)]);
    match outlook.fate {
        _ if outlook.reasons.is_empty() => "goes with the next clean-up".to_owned(),
        _ if outlook.reasons.contains(&Reason::Pinned) => "stays until it is unpinned".to_owned(),
        _ if outlook.reasons.contains(&Reason::NoRule) => "stays".to_owned(),
        _ if only_busy => "goes when that is done".to_owned(),
        Fate::Goes(at) => format!("expected to go {}", times.text(at, "%-d %b %Y")),
        Fate::Stays if outlook.goes_on => format!("not before {}", times.text(outlook.until, "%b %Y")),
        Fate::Stays => "until newer points take its place".to_owned(),
    }
}

/// A pinned point's mark, with who and what for.
pub fn pin_mark(point: &PointLine, times: &Times) -> Html {
    let (Some(at), Some(by)) = (point.pinned_at, &point.pinned_by) else { return Html::default() };
    let mut title = format!("Pinned by {by}, {}", times.moment_text(at));
    if !point.pin_note.is_empty() {
        title = format!("{title}: {}", point.pin_note);
    }
    let icon = ui::icon("f-pin");
    Html(format!(r#" <span class="lbl lbl-run" title="{}">{icon}pinned</span>"#, ui::escape(&title)))
}

/// `POST /restore/points/{point}/pin`
pub async fn pin(State(app): State<App>, session: Session, Path(point): Path<PointId>, fields: Fields) -> Result {
    let note = fields.get("note");
    let length = note.chars().count();
    if length > PIN_NOTE_MAX_CHARS || note.chars().any(char::is_control) {
        let text = format!("The note has {length} of at most {PIN_NOTE_MAX_CHARS} characters, on one line.");
        return Err(Failure::Refused(text));
    }
    app.db().pin_point(point, &session.name, note).await?;
    record(&app, &session, "point.pinned", &subject(&app, point).await?, note).await?;
    go(format!("{}?said=point-pinned", back(&app, point, &fields).await?))
}

/// `POST /restore/points/{point}/unpin`
pub async fn unpin(State(app): State<App>, session: Session, Path(point): Path<PointId>, fields: Fields) -> Result {
    app.db().unpin_point(point).await?;
    record(&app, &session, "point.unpinned", &subject(&app, point).await?, "").await?;
    go(format!("{}?said=point-unpinned", back(&app, point, &fields).await?))
}

async fn subject(app: &App, point: PointId) -> Result<String> {
    let point = app.db().point(point).await?;
    Ok(format!("{}, {}", point.machine_name, app.times().moment_text(point.taken_at)))
}

/// The page the form stood on.
async fn back(app: &App, point: PointId, fields: &Fields) -> Result<String> {
    let vm = if fields.get("from") == "machine" { app.db().point(point).await?.vm_id } else { None };
    Ok(vm.map_or_else(|| format!("/restore/points/{point}"), |vm| format!("/machines/{vm}")))
}

/// `POST /storage/{repository}/floor`
pub async fn floor(
    State(app): State<App>,
    session: Session,
    Path(repository): Path<RepositoryId>,
    fields: Fields,
) -> Result {
    let it = views::repository_line(app.db(), repository).await?.ok_or(Failure::NotFound)?;
    let number = |name, max| match fields.get(name) {
        "" => Some(0),
        text => text.parse::<u32>().ok().filter(|number| *number <= max),
    };
    let (Some(points), Some(days)) = (number("points", NUMBER_MAX), number("days", AGE_MAX_DAYS)) else {
        let text = format!("The floor takes 0 to {NUMBER_MAX} points and 0 to {AGE_MAX_DAYS} days.");
        return Err(Failure::Refused(text));
    };
    app.db().set_floor(repository, Floor { points, days }).await?;
    record(&app, &session, "location.floor", &it.name, &floor_words(points, days)).await?;
    go(format!("/storage/{repository}?said=floor-saved"))
}

/// A floor in words.
pub fn floor_words(points: impl format::Figure, days: impl format::Figure) -> String {
    let (points, days) = (points.figure(), days.figure());
    let points =
        (points > 0).then(|| format!("never fewer than {} a machine", format::count(points, "point", "points")));
    let days = (days > 0).then(|| format!("none younger than {}", format::count(days, "day", "days")));
    match (points, days) {
        (None, None) => "none".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(points), Some(days)) => format!("{points}, {days}"),
    }
}

/// What the last clean-up of a location came to.
pub struct CleanUp {
    /// It waits or is at work.
    pub active: bool,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How.
    pub state: JobState,
    /// Why it did not succeed.
    pub error: Option<domain::job::JobError>,
    /// Its newest lines, in reading order.
    pub lines: Vec<String>,
    /// Older lines that are left out.
    pub left_out: usize,
}

impl CleanUp {
    /// The last one worth telling of, if there was one lately.
    pub async fn newest(app: &App, repository: RepositoryId) -> Result<Option<Self>> {
        let Some(job) = app.db().newest_clean_up(repository).await? else { return Ok(None) };
        let log = app.db().job_log(job.job_id, 0, CLEAN_UP_LOG_LINES).await?;
        let mut lines: Vec<String> =
            log.into_iter().filter(|line| line.level != LogLevel::Error).map(|line| line.message).collect();
        let left_out = lines.len().saturating_sub(CLEAN_UP_LINES_MAX);
        lines.drain(..left_out);
        Ok(Some(Self {
            active: !job.state.is_final(),
            finished_at: job.finished_at,
            state: job.state,
            error: job.error,
            lines,
            left_out,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_said_in_words() {
        assert_eq!(floor_words(0_u32, 0_u32), "none");
        assert_eq!(floor_words(3_u32, 0_u32), "never fewer than 3 points a machine");
        assert_eq!(floor_words(1_u32, 7_u32), "never fewer than 1 point a machine, none younger than 7 days");
    }
}
