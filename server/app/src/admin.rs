//! `stillframe admin`: help for administrators who are locked out. Who may run it on the server may do so.

use crate::failure::Failure;
use crate::serve::{self, data_dir::DataDir};
use clap::{Args, Subcommand};
use secrecy::SecretString;
use std::process::ExitCode;

const PASSWORD_BYTES: usize = 12;

/// See the program's `--help`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Give an account a new password, which is printed once, and end its sessions. The server must be stopped if its
    /// database is the private one.
    ResetPassword {
        /// Name of the account.
        name: String,
        #[command(flatten)]
        server: serve::Options,
    },
}

/// Does it.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let Action::ResetPassword { name, server } = options.action;
    // With a database of its own the server may go on; the lock is for the private one.
    let data = DataDir::open_and_lock(&server.data_dir())?;
    let (database, postgres) = serve::open_database(&server, &data).await?;
    let result = reset_password(&database, &name).await;
    database.close().await;
    if let Some(postgres) = postgres {
        postgres.stop().await.map_err(|error| Failure::new("The database did not stop", &error))?;
    }
    println!("The new password of “{name}” is: {}", result?);
    println!("Change it after signing in. All its sessions have ended.");
    Ok(ExitCode::SUCCESS)
}

async fn reset_password(database: &db::Database, name: &str) -> Result<String, Failure> {
    let what = || format!("The password of “{name}” was not changed");
    let found = database.account_by_name(name).await.map_err(|error| Failure::new(what(), &error))?;
    let Some((account, _)) = found else {
        let names: Vec<String> = match database.accounts().await {
            Ok(accounts) => accounts.into_iter().map(|account| account.name).collect(),
            Err(error) => return Err(Failure::new(what(), &error)),
        };
        return Err(
            Failure::because(what(), "there is no such account").hint(format!("Accounts: {}", names.join(", ")))
        );
    };
    let mut bytes = [0; PASSWORD_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Failure::because(what(), error.to_string()))?;
    let password = hex::encode(bytes);
    let hash = web::hash_password(SecretString::from(password.clone()))
        .await
        .ok_or_else(|| Failure::because(what(), "it could not be hashed"))?;
    database.set_password(account.account_id, &hash).await.map_err(|error| Failure::new(what(), &error))?;
    database.delete_sessions_of(account.account_id).await.map_err(|error| Failure::new(what(), &error))?;
    Ok(password)
}
