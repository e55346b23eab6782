//! Troubles that last: told once when they begin and once when they are over, however often one looks.
//!
//! Each query gives every thing that the kind is about, with `holds`. What holds and has no row gets one and is told;
//! a row of what no longer holds goes and is told; a row of what is no more goes in silence.

use super::{NewNotice, NoticeLimits, insert, minutes_words};
use crate::database::Database;
use crate::error::Result;
use crate::goals::goals;
use crate::ids::{DeviceId, RepositoryId, VmId};
use crate::journal::left_behind;
use domain::notice::{Item, NoticeKind};
use sqlx::{Postgres, Transaction};

/// A location is enough again with so much more free than where it began to be told, percent.
const SPACE_MARGIN_PERCENT: i64 = 2;
/// What dead jobs left is put right within minutes where it can be.
const LEFT_BEHIND_MINUTES: i64 = 60;

#[derive(sqlx::FromRow)]
struct Change {
    over: bool,
    name: String,
    text: String,
    minutes: i64,
    vm_id: Option<VmId>,
    device_id: Option<DeviceId>,
    repository_id: Option<RepositoryId>,
}

/// `seen (condition_key, holds, name, text, vm_id, device_id, repository_id)` comes before it. `$1` is the kind.
macro_rules! changes {
    () => {
        ", opened as (
             insert into notice_condition (condition_key, kind, name, text, vm_id, device_id, repository_id)
             select condition_key, $1, name, left(text, 500), vm_id, device_id, repository_id from seen where holds
             on conflict (condition_key) do nothing
             returning name, text, vm_id, device_id, repository_id),
         closed as (
             delete from notice_condition c
             where c.kind = $1 and not exists (select from seen s where s.condition_key = c.condition_key and s.holds)
             returning c.*)
         select false as over, name, text, 0::bigint as minutes, vm_id, device_id, repository_id from opened
         union all
         select true, c.name, c.text, (extract(epoch from now() - c.opened_at) / 60)::bigint, c.vm_id, c.device_id,
                c.repository_id
         from closed c join seen s using (condition_key)
         order by over, name"
    };
}

const DEVICES: &str = concat!(
    "with seen as (
         select 'device:' || device_id as condition_key, name, null::bigint as vm_id, device_id, null::uuid as repository_id,
                sync_error is not null and coalesce(synced_at, created_at) < now() - make_interval(mins => $2::int) as holds,
                concat_ws(' ', sync_error ->> 'why', sync_error ->> 'hint') as text
         from device where enabled)",
    changes!()
);
const REPOSITORIES: &str = concat!(
    "with seen as (
         select 'repository:' || repository_id as condition_key, name, null::bigint as vm_id, null::bigint as device_id,
                repository_id, check_error is not null as holds,
                concat_ws(' ', check_error ->> 'why', check_error ->> 'hint') as text
         from repository)",
    changes!()
);
const SPACE: &str = concat!(
    "with seen as (
         select 'space:' || repository_id as condition_key, name, null::bigint as vm_id, null::bigint as device_id, repository_id,
                free_bytes::numeric * 100 < capacity_bytes::numeric * ($2 + case when exists (
                    select from notice_condition c where c.condition_key = 'space:' || repository_id) then $3 else 0 end)
                    as holds,
                round(free_bytes / 1e9, 1) || ' GB of ' || round(capacity_bytes / 1e9, 1) || ' GB are free.' as text
         from repository where free_bytes is not null and capacity_bytes > 0)",
    changes!()
);
const DAMAGE: &str = concat!(
    "with seen as (
         select 'damage:' || point_id as condition_key, machine_name as name, vm_id, null::bigint as device_id, repository_id,
                verify_error is not null as holds,
                'The point of ' || to_char(taken_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC. '
                    || coalesce(verify_error, '') as text
         from restore_point where expiring_since is null and (verify_error is not null or point_id in (
             select substr(condition_key, 8)::uuid from notice_condition where kind = $1)))",
    changes!()
);
const LEFT_BEHIND: &str = concat!(
    "with seen as (
         select 'change:' || c.change_id as condition_key, concat_ws(' on ', v.name, d.name) as name, c.vm_id, c.device_id,
                null::uuid as repository_id,
                ",
    left_behind!(),
    " and greatest(c.created_at, j.updated_at) < now() - make_interval(mins => $2::int) as holds,
                case c.kind when 'snapshot' then 'A snapshot.' when 'import' then 'A half-made machine.'
                            when 'power' then 'The machine is still off.' else 'Marks of changed areas.' end
                    || coalesce(' ' || c.last_error, '') as text
         from host_change c join device d using (device_id) left join virtual_machine v on v.vm_id = c.vm_id
         left join job j on j.job_id = c.job_id
         where c.state in ('intended', 'made', 'removing') or c.change_id in (
             select substr(condition_key, 8)::bigint from notice_condition where kind = $1))",
    changes!()
);
const GOALS: &str = concat!(
    goals!(
        ", seen as (
         select 'goal:' || vm_id as condition_key, name, vm_id, device_id, null::uuid as repository_id,
                missed as holds,
                case when newest_good_at is null then 'It was never backed up. '
                     else 'Its newest good point is of ' || to_char(newest_good_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')
                          || ' UTC. ' end || reason as text
         from goal)"
    ),
    changes!()
);

impl Database {
    /// Looks at everything that may last, and writes notices of what began and what is over. Says how many things changed.
    pub async fn observe_conditions(&self) -> Result<usize> {
        let limits = self.notice_limits().await?;
        let mut changed = 0;
        for kind in NoticeKind::ALL {
            changed += self.observe(kind, &limits).await?;
        }
        Ok(changed)
    }

    async fn observe(&self, kind: NoticeKind, limits: &NoticeLimits) -> Result<usize> {
        let (query, figures): (&'static str, &[i64]) = match kind {
            NoticeKind::DeviceUnreachable => (DEVICES, &[i64::from(limits.device_minutes)]),
            NoticeKind::RepositoryUnreachable => (REPOSITORIES, &[]),
            NoticeKind::RepositorySpace => (SPACE, &[i64::from(limits.space_percent), SPACE_MARGIN_PERCENT]),
            NoticeKind::Damage => (DAMAGE, &[]),
            NoticeKind::LeftBehind => (LEFT_BEHIND, &[LEFT_BEHIND_MINUTES]),
            NoticeKind::GoalMissed => (GOALS, &[]),
            _ => return Ok(0),
        };
        let mut transaction = self.pool.begin().await?;
        let asked = sqlx::query_as::<_, Change>(query).bind(kind.as_str());
        let asked = figures.iter().fold(asked, |asked, figure| asked.bind(*figure));
        let changes = asked.fetch_all(&mut *transaction).await?;
        let count = changes.len();
        let (over, began): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(|change| change.over);
        tell(&mut transaction, kind, began).await?;
        tell(&mut transaction, kind, over).await?;
        transaction.commit().await?;
        Ok(count)
    }
}

/// One notice for all that changed the same way in one look.
async fn tell(transaction: &mut Transaction<'_, Postgres>, kind: NoticeKind, changes: Vec<Change>) -> Result<()> {
    let Some(first) = changes.first() else { return Ok(()) };
    let (over, single) = (first.over, changes.len() == 1);
    let mut notice = NewNotice {
        title: title(kind, over, &first.name, changes.len()),
        detail: if over { String::new() } else { hint(kind).to_owned() },
        over,
        ..NewNotice::default()
    };
    if single {
        (notice.vm_id, notice.device_id, notice.repository_id) = (first.vm_id, first.device_id, first.repository_id);
    }
    let text = |change: Change| {
        if over { format!("It lasted {}.", minutes_words(change.minutes)) } else { change.text }
    };
    notice.items = changes.into_iter().map(|change| Item { name: change.name.clone(), text: text(change) }).collect();
    insert(transaction, kind, notice).await
}

fn title(kind: NoticeKind, over: bool, name: &str, count: usize) -> String {
    let (one, many) = match (kind, over) {
        (NoticeKind::DeviceUnreachable, false) => ("{} does not answer", "{} devices do not answer"),
        (NoticeKind::DeviceUnreachable, true) => ("{} answers again", "{} devices answer again"),
        (NoticeKind::RepositoryUnreachable, false) => ("{} cannot be used", "{} locations cannot be used"),
        (NoticeKind::RepositoryUnreachable, true) => ("{} can be used again", "{} locations can be used again"),
        (NoticeKind::RepositorySpace, false) => ("Space runs out on {}", "Space runs out on {} locations"),
        (NoticeKind::RepositorySpace, true) => ("{} has enough space again", "{} locations have enough space again"),
        (NoticeKind::Damage, false) => ("A restore point of {} is damaged", "{} restore points are damaged"),
        (NoticeKind::Damage, true) => ("A damaged point of {} is whole again", "{} damaged points are whole again"),
        (NoticeKind::LeftBehind, false) => ("Left behind: {}", "{} things are left behind on hosts"),
        (NoticeKind::LeftBehind, true) => ("Put right: {}", "{} things that were left on hosts are put right"),
        (_, false) => ("{} misses its goal", "{} machines miss their goal"),
        (_, true) => ("{} meets its goal again", "{} machines meet their goal again"),
    };
    if count == 1 { one.replace("{}", name) } else { many.replace("{}", &count.to_string()) }
}

const fn hint(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::DeviceUnreachable => "Its machines are not backed up meanwhile.",
        NoticeKind::RepositoryUnreachable => "Nothing can be written to it or restored from it meanwhile.",
        NoticeKind::RepositorySpace => "Keep fewer points, or give it more space. When it is full, backups fail.",
        NoticeKind::Damage => {
            "Look at the disk below the location. The next run of the machine’s task reads the damaged part again."
        }
        NoticeKind::LeftBehind => "It is tried again every few minutes. Look whether the host answers and allows it.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_named_and_many_are_counted() {
        assert_eq!(title(NoticeKind::DeviceUnreachable, false, "esx-a", 1), "esx-a does not answer");
        assert_eq!(title(NoticeKind::GoalMissed, false, "web-01", 12), "12 machines miss their goal");
        assert_eq!(title(NoticeKind::RepositorySpace, true, "nas", 1), "nas has enough space again");
    }
}
