-- Change tracking that said nothing of a change: found by reading what it called unchanged. Shown until an operator has seen it.

create table tracking_alarm (
    alarm_id     bigint generated always as identity primary key,
    vm_id        bigint not null references virtual_machine on delete cascade,
    job_id       bigint references job on delete set null,
    disk_key     integer not null,
    disk_label   text not null,
    -- The first byte of the disk that was found changed.
    offset_bytes bigint not null check (offset_bytes >= 0),
    found_at     timestamptz not null default now(),
    seen_at      timestamptz,
    seen_by      text
);
create index tracking_alarm_machine on tracking_alarm (vm_id, alarm_id);
create index tracking_alarm_open on tracking_alarm (vm_id) where seen_at is null;
