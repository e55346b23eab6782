-- Cold backups, differentials, marks that hosts keep for us, and a second platform.

alter table device
    drop constraint device_kind_check,
    add constraint device_kind_check check (kind in ('esxi', 'hyperv'));

alter table backup_task
    drop constraint backup_task_method_check,
    add constraint backup_task_method_check check (method in ('full', 'incremental', 'differential')),
    -- 'cold': shut down, copied, switched on again; 'cold_snapshot': copied from a snapshot while it runs again.
    add column mode text not null default 'hot' check (mode in ('hot', 'cold', 'cold_snapshot')),
    -- A guest gets so long to shut down, and then …
    add column shutdown_minutes integer not null default 10 check (shutdown_minutes between 1 and 120),
    add column if_still_on text not null default 'fail' check (if_still_on in ('fail', 'power_off', 'hot'));

alter table restore_point
    drop constraint restore_point_kind_check,
    add constraint restore_point_kind_check check (kind in ('full', 'incremental', 'differential'));

-- 'power': a machine that was on is shut down, found by its reference; removed = it is on again.
-- 'marks': what the host keeps so that it can tell what changed since a point (object_ref is the point's id); kept while
-- a later run may ask with it.
alter table host_change
    drop constraint host_change_kind_check,
    add constraint host_change_kind_check check (kind in ('snapshot', 'import', 'power', 'marks')),
    -- domain::ChangeMark, one a disk; of kind 'marks', once they are known.
    add column marks jsonb not null default '[]',
    -- What was asked for but is not there yet may still come until then.
    add column settles_at timestamptz;
create index host_change_kept_marks on host_change (vm_id) where kind = 'marks' and state = 'kept';
-- Open power changes are looked for by machine before one is undone.
create index host_change_open_machine on host_change (vm_id) where state in ('intended', 'made', 'removing');
