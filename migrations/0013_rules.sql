-- Which machines a task holds, and what it asks of their guests.

alter table backup_task
    drop constraint backup_task_quiesce_check,
    -- domain::Quiesce.
    add constraint backup_task_quiesce_check check (quiesce in ('require', 'prefer', 'off'));
