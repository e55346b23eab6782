//! Every query against a real Postgres.

mod console;
mod fixture;
mod goals;
mod hosts;
mod journal;
mod notices;
mod points;
mod postgres;
mod queue;
mod runs;
mod sealed;
mod tasks;
