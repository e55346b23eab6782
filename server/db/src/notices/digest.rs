//! The daily digest: what happened since the last one, and what is the matter now.

use super::channels::Channel;
use super::routing::deliver;
use crate::column::Time;
use crate::database::Database;
use crate::error::Result;
use crate::journal::left_behind;
use domain::notice::{Message, NoticeKind, NoticeSeverity, Section, Subject, Tell};
use jiff::Timestamp;
use sqlx::{Postgres, Transaction};

type Tx<'a> = Transaction<'a, Postgres>;

/// Lines of one part; the rest is counted.
const LINES_MAX: i64 = 25;
/// Digests made in one go.
const DIGESTS_MAX: usize = 20;

#[derive(sqlx::FromRow)]
struct Due {
    #[sqlx(flatten)]
    channel: Channel,
    #[sqlx(try_from = "Time")]
    since: Timestamp,
    #[sqlx(try_from = "Time")]
    now: Timestamp,
}

#[derive(sqlx::FromRow)]
struct Runs {
    all: i64,
    well: i64,
    warned: i64,
    failed: i64,
}

impl Database {
    /// Makes the digests whose time has come. Says how many there are.
    pub async fn make_due_digests(&self) -> Result<usize> {
        let mut made = 0;
        for _ in 0..DIGESTS_MAX {
            match self.make_one_digest().await? {
                Some(sent) => made += usize::from(sent),
                None => break,
            }
        }
        Ok(made)
    }

    /// `None` when none is due; otherwise whether there was something to send.
    async fn make_one_digest(&self) -> Result<Option<bool>> {
        let mut transaction = self.pool.begin().await?;
        let due: Option<Due> = sqlx::query_as(
            "select channel_id, name, config, secret_sealed is not null as has_secret, enabled, rules, digest,
                    next_digest_at, hourly_max, digested_until as since, now() as now
             from notice_channel where enabled and digest is not null and next_digest_at <= now()
             order by next_digest_at, channel_id limit 1 for update skip locked",
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(Due { channel, since, now }) = due else { return Ok(None) };
        let message = compose(&mut transaction, &channel, since, now).await?;
        let wanted =
            message.severity != NoticeSeverity::Info || channel.digest.as_ref().is_some_and(|it| it.also_when_well);
        if wanted {
            deliver(&mut transaction, &channel, None, &message, false).await?;
        }
        let next = channel.digest.as_ref().and_then(|digest| digest.next_after(now));
        sqlx::query("update notice_channel set next_digest_at = $2, digested_until = now() where channel_id = $1")
            .bind(channel.channel_id)
            .bind(next.map(Time))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(wanted))
    }
}

async fn compose(transaction: &mut Tx<'_>, channel: &Channel, since: Timestamp, now: Timestamp) -> Result<Message> {
    let runs = runs(transaction, since).await?;
    let mut sections = vec![run_section(transaction, &runs, since).await?];
    let goals = conditions(transaction, true).await?;
    let troubles = conditions(transaction, false).await?;
    let trouble = runs.failed > 0 || !goals.is_empty() || !troubles.is_empty();
    let open = goals.len() + troubles.len();
    sections.push(Section { title: "Machines that miss their goal".to_owned(), lines: or(goals, "None.") });
    sections.push(Section { title: "Troubles that last".to_owned(), lines: or(troubles, "None.") });
    sections.push(Section { title: "Space".to_owned(), lines: or(space(transaction).await?, "No location yet.") });
    sections.push(Section { title: "Without a backup, and left behind".to_owned(), lines: rest(transaction).await? });
    let also = also(transaction, channel, since).await?;
    if !also.is_empty() {
        sections.push(Section { title: "What else happened".to_owned(), lines: also });
    }
    let title = match (trouble, runs.failed, open) {
        (false, ..) => format!("All is well: {} ended since the last digest", counted(runs.all, "run")),
        (true, 0, open) => format!("{} last", counted(open as i64, "trouble")),
        (true, failed, 0) => format!("{} failed since the last digest", counted(failed, "run")),
        (true, failed, open) => format!("{} failed, {} last", counted(failed, "run"), counted(open as i64, "trouble")),
    };
    let warned = runs.warned > 0;
    Ok(Message {
        kind: "digest".to_owned(),
        severity: match (trouble, warned) {
            (true, _) => NoticeSeverity::Error,
            (false, true) => NoticeSeverity::Warning,
            (false, false) => NoticeSeverity::Info,
        },
        over: false,
        title,
        detail: format!("From {} to {}.", moment(since), moment(now)),
        items: Vec::new(),
        items_total: 0,
        subject: Subject::default(),
        sections,
        created_at: now,
    })
}

async fn runs(transaction: &mut Tx<'_>, since: Timestamp) -> Result<Runs> {
    Ok(sqlx::query_as(
        "select count(*) as all, count(*) filter (where state = 'succeeded') as well,
                count(*) filter (where state = 'warning') as warned, count(*) filter (where state = 'failed') as failed
         from run where finished_at > $1 and state in ('succeeded', 'warning', 'failed')",
    )
    .bind(Time(since))
    .fetch_one(&mut **transaction)
    .await?)
}

async fn run_section(transaction: &mut Tx<'_>, runs: &Runs, since: Timestamp) -> Result<Section> {
    let mut lines = vec![format!(
        "{} ended: {} well, {} with a warning, {} failed.",
        counted(runs.all, "run"),
        runs.well,
        runs.warned,
        runs.failed
    )];
    let failed: Vec<(String, Time, i64, i64)> = sqlx::query_as(
        "select r.title, r.finished_at, count(*) filter (where j.state = 'failed'), count(*)
         from run r join job j using (run_id) where r.finished_at > $1 and r.state = 'failed'
         group by r.run_id order by r.finished_at desc limit $2",
    )
    .bind(Time(since))
    .bind(LINES_MAX)
    .fetch_all(&mut **transaction)
    .await?;
    lines.extend(failed.into_iter().map(|(title, Time(at), failed, all)| {
        format!("{title}, {}: {failed} of {} failed.", moment(at), counted(all, "machine"))
    }));
    Ok(Section { title: "Runs".to_owned(), lines })
}

/// Troubles that last: machines that miss their goals, or all the others.
async fn conditions(transaction: &mut Tx<'_>, goals: bool) -> Result<Vec<String>> {
    let rows: Vec<(String, String, String, Time)> = sqlx::query_as(
        "select kind, name, text, opened_at from notice_condition where (kind = $1) = $2
         order by opened_at, lower(name) limit $3",
    )
    .bind(NoticeKind::GoalMissed.as_str())
    .bind(goals)
    .bind(LINES_MAX)
    .fetch_all(&mut **transaction)
    .await?;
    let words = |kind: &str| NoticeKind::parse(kind).map_or("", NoticeKind::words);
    Ok(rows
        .into_iter()
        .map(|(kind, name, text, Time(since))| {
            let kind = if goals { String::new() } else { format!("{}: ", words(&kind)) };
            format!("{kind}{name}, since {}. {text}", moment(since)).trim_end().to_owned()
        })
        .collect())
}

async fn space(transaction: &mut Tx<'_>) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "select name || ': ' || case
                    when check_error is not null then 'it cannot be used.'
                    when free_bytes is not null and capacity_bytes > 0 then
                        round(free_bytes / 1e9, 1) || ' GB of ' || round(capacity_bytes / 1e9, 1) || ' GB are free.'
                    else round(coalesce(used_bytes, 0) / 1e9, 1) || ' GB are used; what is free is not told there.' end
         from repository order by lower(name) limit $1",
    )
    .bind(LINES_MAX)
    .fetch_all(&mut **transaction)
    .await?)
}

async fn rest(transaction: &mut Tx<'_>) -> Result<Vec<String>> {
    let (unprotected, left): (i64, i64) = sqlx::query_as(concat!(
        "select (select count(*) from virtual_machine v join device d using (device_id)
                 where v.missing_since is null and d.enabled and not exists (
                     select 1 from backup_task_machine m join backup_task t using (task_id)
                     where m.vm_id = v.vm_id and t.deleted_at is null)),
                (select count(*) from host_change c left join job j using (job_id)
                 where ",
        left_behind!(),
        ")"
    ))
    .fetch_one(&mut **transaction)
    .await?;
    Ok(vec![format!("Machines in no task: {unprotected}"), format!("Left behind on hosts: {left}")])
}

/// Notices that this channel wants in its digest only.
async fn also(transaction: &mut Tx<'_>, channel: &Channel, since: Timestamp) -> Result<Vec<String>> {
    let kinds: Vec<&str> = NoticeKind::ALL
        .into_iter()
        .filter(|kind| channel.rules.of(*kind) == Tell::Digest)
        .map(NoticeKind::as_str)
        .collect();
    let rows: Vec<(String, Time)> = sqlx::query_as(
        "select title, created_at from notice where created_at > $1 and kind = any($2) order by created_at limit $3",
    )
    .bind(Time(since))
    .bind(kinds)
    .bind(LINES_MAX)
    .fetch_all(&mut **transaction)
    .await?;
    Ok(rows.into_iter().map(|(title, Time(at))| format!("{}: {title}", moment(at))).collect())
}

fn or(lines: Vec<String>, none: &str) -> Vec<String> {
    if lines.is_empty() { vec![none.to_owned()] } else { lines }
}

fn counted(number: i64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
