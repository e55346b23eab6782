-- Workers on other machines: who they are, what they may take, and how they come in.

create table worker (
    worker_id     bigint generated always as identity primary key,
    -- Begins the names of its leases, before a slash.
    name          text not null constraint worker_name unique
                  check (length(name) between 1 and 200 and position('/' in name) = 0),
    -- A server works too; it is not enrolled.
    kind          text not null check (kind in ('server', 'worker')),
    -- Takes the jobs of devices with one of these tags.
    tags          text[] not null default '{}',
    -- Takes those of devices without a tag as well. A worker without tags does anyway.
    also_untagged boolean not null default false,
    -- Takes nothing more.
    draining      boolean not null default false,
    -- Its account in Postgres.
    account       text,
    enrolled_by   text not null default '',
    enrolled_at   timestamptz not null default now(),
    -- What it tells of itself.
    host          text not null default '',
    version       text not null default '',
    process       bigint,
    slots         integer not null default 0,
    processors    integer not null default 0,
    -- Processes that want to run, of the last minute, hundredths.
    load_percent  integer,
    started_at    timestamptz,
    seen_at       timestamptz,
    -- It said that it stops.
    stopped_at    timestamptz
);

-- Lets one worker in, once.
create table worker_token (
    token_hash bytea primary key check (length(token_hash) = 32),
    -- Takes the place of this one.
    worker_id  bigint references worker on delete cascade,
    created_by text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);

-- Its jobs are done by workers with this tag only; null: by those that take untagged ones.
alter table device add column worker_tag text;

-- Of a folder: the workers that see it; empty: the servers. Other locations are seen by all.
alter table repository add column seen_by bigint[] not null default '{}';

-- The same path is another folder on another machine.
drop index repository_path;
create unique index repository_path on repository (kind, path, seen_by);

-- The point that a backup was about to commit: an attempt that comes after a death does not make a second one.
alter table job add column point_id uuid;

-- The first job that waits, of a run on a device.
create index job_waiting on job (coalesce(run_id, 0), coalesce(device_id, 0), run_after, job_id) where state = 'queued';
