-- Locations beyond local folders, and jobs that give space back.

-- What the operator entered, without its secret (repository::Location as JSON); `path` is its name for people.
alter table repository
    drop constraint repository_kind_check,
    add constraint repository_kind_check check (kind in ('folder', 'smb', 'nfs', 's3')),
    add column location jsonb,
    -- A password or secret key, sealed with the credential key; table, column and repository_id are associated data.
    add column secret_sealed bytea;
update repository set location = jsonb_build_object('kind', 'folder', 'path', path);
alter table repository alter column location set not null;

alter table job
    drop constraint job_kind_check,
    add constraint job_kind_check
        check (kind in ('backup', 'restore', 'inventory', 'reconcile', 'verify', 'collect'));
drop index job_one_queued_housekeeping;
create unique index job_one_queued_housekeeping on job (kind, concurrency_key)
    where state = 'queued' and kind in ('inventory', 'reconcile', 'collect');

-- When space was last given back, and what the last collection waited for.
alter table repository
    add column collected_at timestamptz,
    add column collected_bytes bigint,
    -- Points were removed since: there is something to collect.
    add column collect_due boolean not null default false;
