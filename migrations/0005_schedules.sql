-- Runs that did not happen, and hours in which runs may go on. What schedules say lies in backup_task.schedule
-- (domain::Schedule); the form of the first version is read as it is.

alter table run
    -- domain::JobError. The run did not happen: it has no jobs, is 'cancelled', and this says why.
    add column skipped jsonb,
    -- What still runs then is stopped.
    add column must_end_at timestamptz;
create index run_must_end on run (must_end_at) where must_end_at is not null and state in ('queued', 'running');
create index run_skipped on run (created_at desc) where skipped is not null;

-- Its end was asked for because the task's hours were over, not by an operator.
alter table job add column window_ended boolean not null default false;

-- Tasks that run after another, by that one.
create index backup_task_after on backup_task (((schedule ->> 'task_id')::bigint)) where schedule ->> 'kind' = 'after';
