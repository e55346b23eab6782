-- First schema. Times are Postgres's own now(); sizes are bytes in bigint; ids that leave the server are opaque numbers
-- or random UUIDs. A row about a restore point follows the manifest in the repository and can be rebuilt from it.

-- One row: what this database belongs to.
create table installation (
    only_row         boolean primary key default true check (only_row),
    created_at       timestamptz not null default now(),
    -- SHA-256 over the credential key and a fixed text: another key file must be noticed before anything is opened with it.
    key_fingerprint  bytea not null check (length(key_fingerprint) = 32),
    -- SHA-256 of the one-time setup token; null once the first administrator exists.
    setup_token_hash bytea check (length(setup_token_hash) = 32)
);

create table setting (
    name  text primary key,
    value jsonb not null
);

create table account (
    account_id    bigint generated always as identity primary key,
    name          text not null check (length(name) between 1 and 100),
    password_hash text not null,
    role          text not null check (role in ('administrator', 'operator', 'viewer')),
    theme         text not null default 'auto' check (theme in ('auto', 'light', 'dark')),
    disabled      boolean not null default false,
    created_at    timestamptz not null default now()
);
create unique index account_name on account (lower(name));

-- Browser sessions: the cookie holds 256 random bits, the table their SHA-256.
create table session (
    token_hash   bytea primary key check (length(token_hash) = 32),
    account_id   bigint not null references account on delete cascade,
    form_token   text not null,
    created_at   timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    expires_at   timestamptz not null
);
create index session_account on session (account_id);

-- Failed sign-ins by account name and address, for throttling.
create table login_failure (
    subject   text not null,
    failed_at timestamptz not null default now()
);
create index login_failure_subject on login_failure (subject, failed_at);

-- Who changed what. Never holds a secret.
create table audit_entry (
    audit_id   bigint generated always as identity primary key,
    at         timestamptz not null default now(),
    account_id bigint references account on delete set null,
    actor      text not null,
    action     text not null,
    subject    text not null,
    detail     text not null default ''
);

create table device (
    device_id          bigint generated always as identity primary key,
    kind               text not null check (kind in ('esxi')),
    name               text not null check (length(name) between 1 and 200),
    host               text not null,
    port               integer not null check (port between 1 and 65535),
    account            text not null,
    -- Sealed with the credential key; table, column and device_id are associated data.
    password_sealed    bytea not null,
    certificate_sha256 bytea not null check (length(certificate_sha256) = 32),
    host_uuid          text,
    simulated          boolean not null default false,
    enabled            boolean not null default true,
    -- How a full is read: 'allocated' trusts the host's list of allocated areas where it is reliable, 'everything' never does.
    full_reads         text not null default 'allocated' check (full_reads in ('allocated', 'everything')),
    max_jobs           integer not null default 2 check (max_jobs between 1 and 64),
    product            text not null default '',
    api_version        text not null default '',
    findings           jsonb not null default '[]',
    created_at         timestamptz not null default now(),
    synced_at          timestamptz,
    sync_error         jsonb,
    sync_failed_at     timestamptz
);
create unique index device_name on device (lower(name));
create unique index device_address on device (lower(host), port);

create table datastore (
    datastore_id   bigint generated always as identity primary key,
    device_id      bigint not null references device on delete cascade,
    reference      text not null,
    name           text not null,
    kind           text not null,
    capacity_bytes bigint not null,
    free_bytes     bigint not null,
    accessible     boolean not null,
    unique (device_id, reference)
);

create table network (
    network_id bigint generated always as identity primary key,
    device_id  bigint not null references device on delete cascade,
    reference  text not null,
    name       text not null,
    unique (device_id, reference)
);

-- Machines are recognised by the platform's unique id; the reference (managed object id) may change.
-- A machine that vanished stays, with missing_since, for as long as it has restore points or tasks.
create table virtual_machine (
    vm_id            bigint generated always as identity primary key,
    device_id        bigint not null references device on delete cascade,
    reference        text not null,
    instance_uuid    text not null,
    name             text not null,
    power            text not null check (power in ('on', 'off', 'suspended')),
    guest_name       text not null default '',
    guest_address    text,
    folder           text not null default '',
    processors       integer not null default 0,
    memory_mib       bigint not null default 0,
    config           jsonb not null,
    tracking_enabled boolean not null default false,
    findings         jsonb not null default '[]',
    first_seen_at    timestamptz not null default now(),
    seen_at          timestamptz not null default now(),
    missing_since    timestamptz,
    unique (device_id, instance_uuid)
);
create index virtual_machine_name on virtual_machine (lower(name));

create table virtual_disk (
    vm_id          bigint not null references virtual_machine on delete cascade,
    disk_key       integer not null,
    label          text not null,
    capacity_bytes bigint not null,
    datastore      text not null,
    path           text not null,
    uuid           text,
    primary key (vm_id, disk_key)
);

create table repository (
    repository_id     uuid primary key,
    name              text not null check (length(name) between 1 and 200),
    kind              text not null check (kind in ('folder')),
    path              text not null,
    passphrase_sealed bytea not null,
    created_at        timestamptz not null default now(),
    capacity_bytes    bigint,
    free_bytes        bigint,
    used_bytes        bigint,
    checked_at        timestamptz,
    check_error       jsonb
);
create unique index repository_name on repository (lower(name));
create unique index repository_path on repository (kind, path);

create table backup_task (
    task_id       bigint generated always as identity primary key,
    name          text not null check (length(name) between 1 and 200),
    -- Null only when the repository of a deleted task was removed.
    repository_id uuid references repository on delete set null,
    -- domain::Schedule, domain::Retention as JSON.
    schedule      jsonb not null,
    retention     jsonb not null,
    method        text not null check (method in ('full', 'incremental')),
    -- With 'incremental': every how many points a full is read again; 0 = only when it must be.
    full_every    integer not null default 0 check (full_every between 0 and 1000),
    quiesce       text not null default 'prefer' check (quiesce in ('prefer', 'off')),
    paused        boolean not null default false,
    -- Due time of the next run by schedule, kept by the scheduler; null for manual tasks.
    next_due_at   timestamptz,
    created_at    timestamptz not null default now(),
    deleted_at    timestamptz,
    check (repository_id is not null or deleted_at is not null)
);
create unique index backup_task_name on backup_task (lower(name)) where deleted_at is null;

create table backup_task_machine (
    task_id bigint not null references backup_task on delete cascade,
    vm_id   bigint not null references virtual_machine on delete cascade,
    primary key (task_id, vm_id)
);
create index backup_task_machine_vm on backup_task_machine (vm_id);

-- One start of a task (kind backup) or one restore. Its state follows its jobs.
create table run (
    run_id      bigint generated always as identity primary key,
    kind        text not null check (kind in ('backup', 'restore')),
    task_id     bigint references backup_task,
    title       text not null,
    started_by  text not null,            -- 'schedule', or the account's name
    due_at      timestamptz,
    state       text not null default 'queued'
                check (state in ('queued', 'running', 'succeeded', 'warning', 'failed', 'cancelled')),
    created_at  timestamptz not null default now(),
    finished_at timestamptz
);
-- The scheduler needs no leader: one run per task and due time.
create unique index run_due on run (task_id, due_at) where due_at is not null;
create index run_newest on run (created_at desc);
create index run_task on run (task_id, created_at desc);

create table job (
    job_id           bigint generated always as identity primary key,
    kind             text not null check (kind in ('backup', 'restore', 'inventory', 'reconcile', 'verify')),
    run_id           bigint references run on delete cascade,
    -- The machine's or device's name when the job was made: the history outlives what it is about.
    title            text not null,
    vm_id            bigint references virtual_machine on delete set null,
    device_id        bigint references device on delete set null,
    repository_id    uuid references repository on delete set null,
    payload          jsonb not null default '{}',
    state            text not null default 'queued'
                     check (state in ('queued', 'running', 'succeeded', 'warning', 'failed', 'cancelled')),
    priority         integer not null default 0,
    -- At most one running job per key: 'vm:7' for backups of a machine, 'device:3:inventory' …
    concurrency_key  text not null,
    run_after        timestamptz not null default now(),
    attempt          integer not null default 0,
    max_attempts     integer not null default 3,
    fence            bigint not null default 0,
    leased_by        text,
    lease_expires_at timestamptz,
    cancel_requested boolean not null default false,
    -- What it is doing, in words: 'Making the snapshot', 'Copying', …
    phase            text not null default '',
    bytes_total      bigint not null default 0,
    bytes_done       bigint not null default 0,   -- of bytes_total, read from the host or written to it
    bytes_stored     bigint not null default 0,
    bytes_per_second bigint not null default 0,
    warnings         integer not null default 0,
    log_lines        integer not null default 0,
    result           jsonb,
    error            jsonb,                        -- domain::JobError
    created_at       timestamptz not null default now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    updated_at       timestamptz not null default now()
);
create unique index job_one_running on job (concurrency_key) where state = 'running';
create index job_queue on job (priority desc, run_after, job_id) where state = 'queued';
create index job_lease on job (lease_expires_at) where state = 'running';
create index job_run on job (run_id);
create index job_vm on job (vm_id, created_at desc);
create index job_device on job (device_id, created_at desc);
create index job_key on job (concurrency_key) where run_id is null;
-- Housekeeping jobs are not piled up.
create unique index job_one_queued_housekeeping on job (kind, concurrency_key)
    where state = 'queued' and kind in ('inventory', 'reconcile');

create table job_disk (
    job_id       bigint not null references job on delete cascade,
    disk_key     integer not null,
    label        text not null,
    bytes_total  bigint not null default 0,
    bytes_done   bigint not null default 0,
    bytes_stored bigint not null default 0,
    primary key (job_id, disk_key)
);

create table job_log (
    log_id  bigint generated always as identity primary key,
    job_id  bigint not null references job on delete cascade,
    at      timestamptz not null default now(),
    level   text not null check (level in ('info', 'warning', 'error')),
    message text not null
);
create index job_log_job on job_log (job_id, log_id);

-- The index of committed points. The manifest in the repository is the truth.
create table restore_point (
    point_id       uuid primary key,
    repository_id  uuid not null references repository on delete cascade,
    vm_id          bigint references virtual_machine on delete set null,
    task_id        bigint references backup_task on delete set null,
    job_id         bigint references job on delete set null,
    machine_name   text not null,
    machine_key    text not null,             -- the manifest's machine id
    taken_at       timestamptz not null,
    kind           text not null check (kind in ('full', 'incremental')),
    consistency    text not null check (consistency in ('application', 'crash', 'offline')),
    size_bytes     bigint not null,
    bytes_read     bigint not null,
    bytes_stored   bigint not null,
    config         jsonb not null,            -- domain::MachineConfig
    marks          jsonb not null default '[]', -- domain::ChangeMark, one a disk
    warnings       jsonb not null default '[]',
    simulated      boolean not null default false,
    verified_at    timestamptz,
    verify_error   text,
    created_at     timestamptz not null default now(),
    -- Retention has decided; the manifest goes next, then the row.
    expiring_since timestamptz
);
create index restore_point_vm on restore_point (vm_id, taken_at desc);
create index restore_point_repository on restore_point (repository_id, taken_at desc);

-- Journal of everything we change on a host: written before, completed after, and undone by the reconciler.
create table host_change (
    change_id   bigint generated always as identity primary key,
    device_id   bigint not null references device on delete cascade,
    vm_id       bigint references virtual_machine on delete set null,
    job_id      bigint references job on delete set null,
    fence       bigint not null,
    kind        text not null check (kind in ('snapshot', 'import')),
    -- Unique name or token that finds it on the host even if the answer was lost.
    token       text not null constraint host_change_token unique,
    -- The machine's reference at that time (snapshot), or null (import: not known yet).
    machine_ref text,
    -- The host's reference of what was made, once known.
    object_ref  text,
    state       text not null default 'intended' check (state in ('intended', 'made', 'removing', 'removed', 'kept')),
    last_error  text,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
);
create index host_change_open on host_change (device_id) where state in ('intended', 'made', 'removing');

-- Answers of a wizard that is not finished.
create table wizard_draft (
    draft_id   uuid primary key,
    account_id bigint not null references account on delete cascade,
    kind       text not null check (kind in ('task', 'restore', 'device')),
    data       jsonb not null default '{}',
    updated_at timestamptz not null default now()
);
