-- Machines that join a task by rule, and disks that are left out.

alter table backup_task
    -- domain::Choice.
    add column choice jsonb not null default '{}',
    -- domain::ExcludedDisk, a list.
    add column excluded_disks jsonb not null default '[]';

-- A rule took it in and may let it go again; false: picked one by one.
alter table backup_task_machine add column by_rule boolean not null default false;
