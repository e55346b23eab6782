//! A Postgres of our own in the data folder, for whoever sets no `DATABASE_URL`.
//!
//! Owns: finding the programs, making the cluster, starting, taking over and stopping the server process.
//! Must never: listen on a network without being told to, or there without TLS; touch a cluster it did not make; end a
//! process it cannot prove to be its own.
//! Read next: `cluster.rs` for the life of the process, `programs.rs` for where `initdb` and `postgres` are.

mod account;
mod cluster;
mod error;
mod programs;
mod socket;

pub use cluster::{Network, PostgresOptions, PrivatePostgres};
pub use error::PostgresError;
pub use programs::Programs;
pub use socket::Socket;
