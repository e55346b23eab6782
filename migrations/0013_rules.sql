-- Which machines a task holds, and what it asks of their guests.

alter table backup_task
    drop constraint backup_task_quiesce_check,
    -- domain::Quiesce.
    add constraint backup_task_quiesce_check check (quiesce in ('require', 'prefer', 'off'));

-- domain::Tags, each once and in order: the operators' own, which no inventory changes.
alter table virtual_machine add column tags text[] not null default '{}' check (cardinality(tags) <= 20);

-- Path of the machine's resource pool, as its host said it last; empty where there is none.
alter table virtual_machine add column pool text not null default '';
