-- How much at once, and how much space a datastore keeps.

alter table device
    -- Backups and restores at once on each of its datastores.
    add column max_jobs_datastore integer not null default 4 check (max_jobs_datastore between 1 and 64),
    -- No snapshot is made, and one that was made is given up, when a datastore has less than this free.
    add column datastore_reserve_percent integer not null default 5 check (datastore_reserve_percent between 0 and 90);

-- Backups and restores at once in a repository.
alter table repository add column max_jobs integer not null default 8 check (max_jobs between 1 and 64);

-- Machines of a task with a higher priority come first: -1 low, 0 normal, 1 high.
alter table backup_task add column priority integer not null default 0 check (priority between -1 and 1);

create index job_running on job (run_id) where state = 'running';
