-- Notices: what is worth telling, the channels that carry it, and goals for the age of restore points.

alter table backup_task
    -- The newest good point of each of its machines is to be no older than this; null: no goal.
    add column goal_minutes integer check (goal_minutes between 1 and 5256000),
    -- Due times up to here are accounted for: they began in time, or it was told that they did not.
    add column due_checked_until timestamptz not null default now();

-- Overrides the tasks' goals: 0 is none, null is theirs.
alter table virtual_machine
    add column goal_minutes integer check (goal_minutes between 0 and 5256000);

-- What is worth telling. Made in the transaction of what it tells, where there is one.
create table notice (
    notice_id     bigint generated always as identity primary key,
    kind          text not null,
    severity      text not null check (severity in ('error', 'warning', 'info')),
    -- What an earlier notice told is no more.
    over          boolean not null default false,
    title         text not null,
    detail        text not null default '',
    -- [{"name": …, "text": …}], the first of items_total.
    items         jsonb not null default '[]',
    items_total   bigint not null default 0,
    task_id       bigint references backup_task on delete set null,
    vm_id         bigint references virtual_machine on delete set null,
    device_id     bigint references device on delete set null,
    repository_id uuid references repository on delete set null,
    run_id        bigint references run on delete set null,
    -- The same is never told twice.
    dedup_key     text not null constraint notice_dedup unique,
    created_at    timestamptz not null default now(),
    -- Since then its deliveries exist.
    routed_at     timestamptz
);
create index notice_unrouted on notice (notice_id) where routed_at is null;
create index notice_newest on notice (created_at desc);
-- For the removal of a device with its machines.
create index notice_vm on notice (vm_id) where vm_id is not null;

-- Troubles that last, one row for as long as each does.
create table notice_condition (
    condition_key text primary key,
    kind          text not null,
    name          text not null,
    text          text not null,
    vm_id         bigint references virtual_machine on delete set null,
    device_id     bigint references device on delete set null,
    repository_id uuid references repository on delete set null,
    opened_at     timestamptz not null default now()
);
create index notice_condition_kind on notice_condition (kind);

create table notice_channel (
    channel_id     bigint generated always as identity primary key,
    name           text not null check (length(name) between 1 and 200),
    kind           text not null check (kind in ('mail', 'webhook')),
    -- domain::ChannelConfig as JSON, without its secret.
    config         jsonb not null,
    -- The password or signing key, sealed with the credential key; table, column and channel_id are associated data.
    secret_sealed  bytea,
    enabled        boolean not null default true,
    -- domain::Rules: which kinds at once, in the digest, or never.
    rules          jsonb not null default '{}',
    -- domain::DigestTime, or null: no digest.
    digest         jsonb,
    next_digest_at timestamptz,
    digested_until timestamptz not null default now(),
    -- At most so many at once in an hour; the rest comes as one summary.
    hourly_max     integer not null default 20 check (hourly_max between 1 and 1000),
    created_at     timestamptz not null default now()
);
create unique index notice_channel_name on notice_channel (lower(name));

-- One message to one recipient. Leased like jobs, so that any number of servers deliver each.
create table notice_delivery (
    -- Receivers tell repetitions by it.
    delivery_id      uuid primary key,
    channel_id       bigint not null references notice_channel on delete cascade,
    notice_id        bigint references notice on delete cascade,
    recipient        text not null default '',
    -- domain::Message as JSON.
    message          jsonb not null,
    -- 'held' waits for the summary that it is in once it is 'summed'.
    state            text not null default 'queued' check (state in ('queued', 'sending', 'sent', 'failed', 'held', 'summed')),
    attempt          integer not null default 0,
    run_after        timestamptz not null default now(),
    leased_by        text,
    lease_expires_at timestamptz,
    -- What the receiver answered, or why it did not.
    answer           text,
    created_at       timestamptz not null default now(),
    finished_at      timestamptz
);
create index notice_delivery_queue on notice_delivery (run_after) where state in ('queued', 'sending');
create index notice_delivery_held on notice_delivery (channel_id, created_at) where state = 'held';
create index notice_delivery_channel on notice_delivery (channel_id, created_at desc);
create index notice_delivery_newest on notice_delivery (created_at desc);
create index notice_delivery_notice on notice_delivery (notice_id);

-- Damage is looked for every minute, among a million points.
create index restore_point_damaged on restore_point (point_id) where verify_error is not null;
