//! The end of a run, told in the transaction that ends it.

use super::{ITEMS_MAX, NewNotice, insert};
use crate::column::Word;
use crate::error::Result;
use crate::ids::{DeviceId, RunId, TaskId, VmId};
use crate::runs::RunKind;
use domain::job::JobState;
use domain::notice::{Item, NoticeKind};
use sqlx::{Postgres, Transaction};

#[derive(sqlx::FromRow)]
struct Ended {
    #[sqlx(try_from = "Word")]
    kind: RunKind,
    title: String,
    #[sqlx(try_from = "Word")]
    state: JobState,
    task_id: Option<TaskId>,
    /// Another end of the same run, after a retry, is another notice.
    end: String,
    jobs: i64,
    worst: i64,
    vm_id: Option<VmId>,
    device_id: Option<DeviceId>,
}

/// Writes the notice if the run has ended. May be called any number of times.
pub(crate) async fn run_ended(transaction: &mut Transaction<'_, Postgres>, run_id: RunId) -> Result<()> {
    let ended: Option<Ended> = sqlx::query_as(
        "select r.kind, r.title, r.state, r.task_id, extract(epoch from r.finished_at)::text as \"end\",
                count(j.job_id) as jobs, count(*) filter (where j.state = r.state) as worst,
                case when count(j.job_id) = 1 then min(j.vm_id) end as vm_id,
                case when count(j.job_id) = 1 then min(j.device_id) end as device_id
         from run r left join job j using (run_id)
         where r.run_id = $1 and r.finished_at is not null and r.state in ('succeeded', 'warning', 'failed')
         group by r.run_id",
    )
    .bind(run_id)
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(ended) = ended else { return Ok(()) };
    let items = if ended.state == JobState::Succeeded { Vec::new() } else { items(transaction, run_id).await? };
    let Some(kind) = kind(&ended) else { return Ok(()) };
    let notice = NewNotice {
        title: title(&ended, &items),
        detail: detail(kind).to_owned(),
        items_total: if items.is_empty() { 0 } else { ended.worst.unsigned_abs() },
        items,
        task_id: ended.task_id,
        vm_id: ended.vm_id,
        device_id: ended.device_id,
        run_id: Some(run_id),
        dedup_key: Some(format!("run:{run_id}:{}", ended.end)),
        ..NewNotice::default()
    };
    insert(transaction, kind, notice).await
}

/// The machines that gave the run its state, and why.
async fn items(transaction: &mut Transaction<'_, Postgres>, run_id: RunId) -> Result<Vec<Item>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select j.title, coalesce(
                    case when j.state = 'failed' then concat_ws(' ', j.error ->> 'why', j.error ->> 'hint') end,
                    (select l.message from job_log l where l.job_id = j.job_id and l.level = 'warning'
                     order by l.log_id desc limit 1), '')
         from job j join run r using (run_id) where r.run_id = $1 and j.state = r.state
         order by lower(j.title), j.job_id limit $2",
    )
    .bind(run_id)
    .bind(ITEMS_MAX as i64)
    .fetch_all(&mut **transaction)
    .await?;
    Ok(rows.into_iter().map(|(name, text)| Item { name, text }).collect())
}

const fn kind(ended: &Ended) -> Option<NoticeKind> {
    Some(match (ended.kind, ended.state) {
        (RunKind::Backup, JobState::Failed) => NoticeKind::BackupFailed,
        (RunKind::Backup, JobState::Warning) => NoticeKind::BackupWarning,
        (RunKind::Backup, JobState::Succeeded) => NoticeKind::BackupSucceeded,
        (RunKind::Restore, JobState::Failed) => NoticeKind::RestoreFailed,
        (RunKind::Restore, JobState::Succeeded | JobState::Warning) => NoticeKind::RestoreSucceeded,
        _ => return None,
    })
}

fn title(ended: &Ended, items: &[Item]) -> String {
    let Ended { title, jobs, worst, .. } = ended;
    let who = match (items, jobs) {
        ([one], 1) => one.name.clone(),
        _ => format!("{worst} of {jobs} machines"),
    };
    match (ended.kind, ended.state) {
        // Nobody is told: who asked for it looks at it.
        (RunKind::Cleanup, _) => title.clone(),
        (RunKind::Restore, JobState::Failed) => format!("{title} failed"),
        (RunKind::Restore, JobState::Warning) => format!("{title} is done, with a warning"),
        (RunKind::Restore, _) => format!("{title} is done"),
        (RunKind::Backup, JobState::Failed) => format!("{title}: {who} failed"),
        (RunKind::Backup, JobState::Warning) => format!("{title}: {who} with a warning"),
        (RunKind::Backup, _) if *jobs == 1 => format!("{title}: 1 machine is backed up"),
        (RunKind::Backup, _) => format!("{title}: {jobs} machines are backed up"),
    }
}

const fn detail(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::BackupFailed => {
            "They have no point of this run; their older points stay. The run’s page has the log."
        }
        NoticeKind::BackupWarning => "The points were made. The run’s page has the log.",
        NoticeKind::RestoreFailed => "What was half made on the host is removed. The run’s page has the log.",
        _ => "",
    }
}
