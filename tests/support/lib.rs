//! What the integration tests share. Owns: processes of ours and of peers. Must never: skip a test because something is
//! missing; `scripts/install.sh test` says what is needed.

mod client;
mod programs;
mod server;

pub use client::Client;
pub use programs::{build_folder, python, repository_root, stillframe, vcsim};
pub use server::{Options, Server, Worker};
