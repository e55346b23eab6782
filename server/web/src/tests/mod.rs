//! The console over its router: a client that keeps cookies, doubles for hosts and repositories, a real Postgres.

mod auth;
mod hyperv;
mod pages;
mod permissions;
mod retention;
mod wizards;
mod world;
