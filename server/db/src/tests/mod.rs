//! Every query against a real Postgres.

mod choice;
mod console;
mod fixture;
mod foreign;
mod goals;
mod hosts;
mod journal;
mod limits;
mod metrics;
mod notices;
mod points;
mod postgres;
mod queue;
mod retention;
mod runs;
mod schedules;
mod sealed;
mod tags;
mod tasks;
mod workers;
