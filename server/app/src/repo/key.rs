//! `stillframe repo key`: who can open a repository. Prints a new recovery key once; never a passphrase.

use clap::{Args, Subcommand};
use repository::{Argon2Cost, KeySlotInfo, OldRecoveryKeys, RecoveryKey, Repository, SlotKind};
use secrecy::{ExposeSecret, SecretString};
use std::io::Write;

use super::passphrase::NewPassphraseSource;
use super::{Place, RepoError, open_with_secret, report};

/// List, change and rotate what opens a repository
#[derive(Debug, Args)]
pub struct KeyCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the key slots
    List {
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace the passphrase; the recovery key will do when the old one is forgotten
    ChangePassphrase {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        new: NewPassphraseSource,
    },
    /// Make a new recovery key and print it; the old one opens nothing any more
    NewRecoveryKey {
        #[command(flatten)]
        place: Place,
        /// Let the recovery keys printed before go on opening the repository
        #[arg(long)]
        keep_old: bool,
    },
    /// Make new keys for what is written from now on, and a new recovery key; every other passphrase and recovery key
    /// opens nothing any more
    Rotate {
        #[command(flatten)]
        place: Place,
        /// Change the passphrase, too; always so when the recovery key was entered
        #[arg(long)]
        new_passphrase: bool,
        #[command(flatten)]
        new: NewPassphraseSource,
    },
    /// Remove a key slot; the passphrase or recovery key that is entered must open another
    Remove {
        #[command(flatten)]
        place: Place,
        /// The slot's id, as `list` prints it
        #[arg(long)]
        slot: String,
    },
}

/// Runs a subcommand with its output in `out`.
pub async fn execute(command: KeyCommand, out: &mut (dyn Write + Send)) -> Result<(), RepoError> {
    let cost = Argon2Cost::default();
    match command.action {
        Action::List { place, json } => {
            let slots = super::open(&place).await?.key_slots().await?;
            if json { report::json(&slots, out) } else { list(&slots, out) }
        }
        Action::ChangePassphrase { place, new } => {
            let (repository, secret) = open_with_secret(&place).await?;
            let new = new.read()?;
            repository.change_passphrase(&secret, &new, cost).await?;
            Ok(writeln!(out, "The passphrase is changed. The old one opens nothing any more; recovery keys stay.")?)
        }
        Action::NewRecoveryKey { place, keep_old } => {
            let (repository, secret) = open_with_secret(&place).await?;
            let old = if keep_old { OldRecoveryKeys::Keep } else { OldRecoveryKeys::Replace };
            let key = repository.new_recovery_key(&secret, old).await?;
            recovery_key(&key, out)
        }
        Action::Rotate { place, new_passphrase, new } => {
            let (repository, secret) = open_with_secret(&place).await?;
            rotate(&repository, &secret, new_passphrase, &new, cost, out).await
        }
        Action::Remove { place, slot } => {
            let (repository, secret) = open_with_secret(&place).await?;
            repository.remove_key_slot(&secret, &slot).await?;
            Ok(writeln!(out, "Key slot {slot} is removed.")?)
        }
    }
}

async fn rotate(
    repository: &Repository,
    secret: &SecretString,
    new_passphrase: bool,
    new: &NewPassphraseSource,
    cost: Argon2Cost,
    out: &mut (dyn Write + Send),
) -> Result<(), RepoError> {
    let by_recovery_key = matches!(RecoveryKey::parse(secret.expose_secret()), Ok(Some(_)));
    let passphrase = if new_passphrase || by_recovery_key || new.is_given() { new.read()? } else { secret.clone() };
    let key = repository.rotate_keys(secret, &passphrase, cost).await?;
    writeln!(out, "The keys are rotated: what is written from now on is sealed with new ones.")?;
    writeln!(out, "Servers that have this repository open ask for its passphrase when they meet the new keys.")?;
    recovery_key(&key, out)
}

fn list(slots: &[KeySlotInfo], out: &mut (dyn Write + Send)) -> Result<(), RepoError> {
    let newest = slots.iter().map(|slot| slot.generation).max().unwrap_or_default();
    for slot in slots {
        let kind = match slot.kind {
            Some(SlotKind::Passphrase) => "passphrase",
            Some(SlotKind::Recovery) => "recovery key",
            None => "unreadable",
        };
        write!(out, "{}  {kind:<12}  generation {}", slot.id, slot.generation)?;
        if slot.generation < newest {
            write!(out, "  SUPERSEDED: opens only what was written before the keys were rotated")?;
        }
        if let Some(damage) = &slot.damage {
            write!(out, "  DAMAGED: {damage}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A recovery key, with what to do with it.
pub fn recovery_key(key: &RecoveryKey, out: &mut (dyn Write + Send)) -> Result<(), RepoError> {
    writeln!(out, "\nRecovery key, shown only now. It opens the repository when the passphrase is lost:\n")?;
    writeln!(out, "    {}\n", key.text().expose_secret())?;
    Ok(writeln!(
        out,
        "Keep it on paper, away from the repository. Without passphrase and key nobody can read the backups."
    )?)
}
