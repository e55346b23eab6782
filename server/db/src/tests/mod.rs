//! Every query against a real Postgres.

mod console;
mod fixture;
mod hosts;
mod journal;
mod points;
mod postgres;
mod queue;
mod retention;
mod runs;
mod sealed;
mod tasks;
