-- Snapshots that other programs' backups seem to have left on hosts: as the inventory saw them last, told by their
-- names. Listed once they are a day old; removed only when an operator asks for it, by a run of its own.

create table foreign_snapshot (
    foreign_id  bigint generated always as identity primary key,
    vm_id       bigint not null references virtual_machine on delete cascade,
    -- The host's own reference.
    reference   text not null,
    name        text not null,
    -- domain::foreign::Maker.
    maker       text not null,
    -- By the host's clock.
    created_at  timestamptz not null,
    seen_at     timestamptz not null default now(),
    -- The run that removes it, or tried to.
    run_id      bigint references run on delete set null,
    unique (vm_id, reference)
);

alter table run
    drop constraint run_kind_check,
    add constraint run_kind_check check (kind in ('backup', 'restore', 'cleanup'));

alter table job
    drop constraint job_kind_check,
    add constraint job_kind_check
        check (kind in ('backup', 'restore', 'inventory', 'reconcile', 'verify', 'collect', 'retain', 'cleanup'));

-- 'foreign': another program's snapshot that an operator has removed; object_ref is its reference. Removed, or kept when
-- it still stands: it is not for the reconciler to remove.
alter table host_change
    drop constraint host_change_kind_check,
    add constraint host_change_kind_check check (kind in ('snapshot', 'import', 'power', 'marks', 'foreign'));
