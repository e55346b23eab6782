//! Every query against a real Postgres.

mod choice;
mod console;
mod fixture;
mod hosts;
mod journal;
mod limits;
mod points;
mod postgres;
mod queue;
mod runs;
mod schedules;
mod sealed;
mod tasks;
