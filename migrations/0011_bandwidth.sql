-- How fast bytes may go from and to hosts and repositories, by time of day: domain::Bandwidth.

alter table device add column bandwidth jsonb not null default '{}';
alter table repository add column bandwidth jsonb not null default '{}';
