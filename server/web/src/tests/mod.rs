//! The console over its router: a client that keeps cookies, doubles for hosts and repositories, a real Postgres.

mod auth;
mod choice;
mod foreign;
mod hyperv;
mod limits;
mod metrics;
mod notifications;
mod pages;
mod permissions;
mod retention;
mod schedules;
mod tracking;
mod wizards;
mod workers;
mod world;
