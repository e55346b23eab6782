-- Retention by any combination of rules, pins, a floor of the repository, and its work as a job of its own.
-- The index takes some seconds where there are a million restore points.

alter table restore_point
    -- Kept by hand, whatever the rules say.
    add column pinned_at timestamptz,
    add column pinned_by text,
    add column pin_note text not null default '' check (length(pin_note) <= 200),
    -- Beside expiring_since: why no rule keeps it, for the log of the job that removes it.
    add column expiring_why text not null default '',
    add constraint restore_point_pin check ((pinned_at is null) = (pinned_by is null)),
    -- What is to be removed is not pinned: whoever comes first wins.
    add constraint restore_point_pin_or_expire check (pinned_at is null or expiring_since is null);
-- Machines with new points are looked at after each backup, all others once a day.
create index restore_point_created on restore_point (repository_id, created_at);

alter table repository
    -- No rule undercuts these: points a machine, and age in days; 0 = no floor.
    add column floor_points integer not null default 0 check (floor_points between 0 and 10000),
    add column floor_days integer not null default 0 check (floor_days between 0 and 36500),
    -- When the last look at machines with new points began, and the last one at all of them.
    add column retained_at timestamptz,
    add column retained_fully_at timestamptz;

-- What becomes of the points of a deleted task: all stay, or its last rule goes on.
alter table backup_task
    add column points_after text not null default 'keep' check (points_after in ('keep', 'rule'));

alter table job
    drop constraint job_kind_check,
    add constraint job_kind_check
        check (kind in ('backup', 'restore', 'inventory', 'reconcile', 'verify', 'collect', 'retain'));
drop index job_one_queued_housekeeping;
create unique index job_one_queued_housekeeping on job (kind, concurrency_key)
    where state = 'queued' and kind in ('inventory', 'reconcile', 'collect', 'retain');
