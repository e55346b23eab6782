//! Where a passphrase comes from: a file, the environment, the terminal without echo, or standard input. Never an
//! argument, which other users of the machine could see.

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use super::RepoError;

/// Longest passphrase that is read.
const PASSPHRASE_BYTES_MAX: u64 = 4096;
/// Shortest that is accepted for a new repository.
const PASSPHRASE_CHARACTERS_MIN: usize = 8;
const VARIABLE: &str = "STILLFRAME_PASSPHRASE";
const NEW_VARIABLE: &str = "STILLFRAME_NEW_PASSPHRASE";

/// Without the option: the variable `STILLFRAME_PASSPHRASE`, else a prompt, else standard input.
#[derive(Debug, Args)]
pub struct PassphraseSource {
    /// Without it, the variable or a question.
    #[arg(
        long,
        help = "File whose first line is the passphrase or the recovery key (default: STILLFRAME_PASSPHRASE, or ask)"
    )]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseSource {
    /// The passphrase, or recovery key, of a repository that is there.
    pub fn read(&self) -> Result<SecretString, RepoError> {
        match self.without_terminal()? {
            Some(passphrase) => Ok(passphrase),
            None => prompt("Passphrase or recovery key: "),
        }
    }

    /// A passphrase for a new repository; typed twice on a terminal.
    pub fn read_new(&self) -> Result<SecretString, RepoError> {
        match self.without_terminal()? {
            Some(passphrase) => long_enough(passphrase),
            None => prompt_twice(),
        }
    }

    fn without_terminal(&self) -> Result<Option<SecretString>, RepoError> {
        if let Some(path) = &self.passphrase_file {
            return from_file(path).map(Some);
        }
        #[allow(clippy::disallowed_methods)] // the app crate reads the environment
        if let Ok(passphrase) = std::env::var(VARIABLE) {
            return Ok(Some(passphrase.into()));
        }
        if isatty(io::stdin()) {
            return Ok(None);
        }
        let failed =
            |source| RepoError::File { doing: "read the passphrase from", path: "standard input".into(), source };
        first_line(io::stdin().lock()).map(Some).map_err(failed)
    }
}

/// Without the option: the variable `STILLFRAME_NEW_PASSPHRASE`, else a prompt.
#[derive(Debug, Args)]
pub struct NewPassphraseSource {
    /// Without it, the variable or a question.
    #[arg(long, help = "File whose first line is the new passphrase (default: STILLFRAME_NEW_PASSPHRASE, or ask)")]
    new_passphrase_file: Option<PathBuf>,
}

impl NewPassphraseSource {
    /// Was a file named?
    pub fn is_given(&self) -> bool {
        self.new_passphrase_file.is_some()
    }

    /// The new passphrase; typed twice on a terminal.
    pub fn read(&self) -> Result<SecretString, RepoError> {
        if let Some(path) = &self.new_passphrase_file {
            return long_enough(from_file(path)?);
        }
        #[allow(clippy::disallowed_methods)] // the app crate reads the environment
        if let Ok(passphrase) = std::env::var(NEW_VARIABLE) {
            return long_enough(passphrase.into());
        }
        if isatty(io::stdin()) {
            return prompt_twice();
        }
        let text = format!("no new passphrase: give --new-passphrase-file or {NEW_VARIABLE}");
        Err(RepoError::Passphrase(text))
    }
}

fn from_file(path: &Path) -> Result<SecretString, RepoError> {
    let failed = |source| RepoError::File { doing: "read", path: path.display().to_string(), source };
    first_line(File::open(path).map_err(failed)?).map_err(failed)
}

fn prompt_twice() -> Result<SecretString, RepoError> {
    let first = prompt("New passphrase: ")?;
    if first.expose_secret() != prompt("Once more: ")?.expose_secret() {
        return Err(RepoError::Passphrase("the two passphrases differ".to_owned()));
    }
    long_enough(first)
}

fn long_enough(passphrase: SecretString) -> Result<SecretString, RepoError> {
    if passphrase.expose_secret().chars().count() < PASSPHRASE_CHARACTERS_MIN {
        let text = format!("a passphrase needs at least {PASSPHRASE_CHARACTERS_MIN} characters");
        return Err(RepoError::Passphrase(text));
    }
    Ok(passphrase)
}

fn first_line(input: impl Read) -> io::Result<SecretString> {
    let mut line = String::new();
    io::BufReader::new(input.take(PASSPHRASE_BYTES_MAX)).read_line(&mut line)?;
    let passphrase = SecretString::from(line.trim_end_matches(['\r', '\n']));
    Ok(passphrase)
}

/// Asks on the terminal, without echo.
pub fn prompt(question: &str) -> Result<SecretString, RepoError> {
    let failed = |source: io::Error| RepoError::File { doing: "ask on", path: "the terminal".to_owned(), source };
    let terminal = io::stdin();
    let before = tcgetattr(&terminal).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    eprint!("{question}");
    io::stderr().flush().map_err(failed)?;
    tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(|error| failed(error.into()))?;
    let line = first_line(terminal.lock());
    let restored = tcsetattr(&terminal, OptionalActions::Now, &before);
    eprintln!();
    restored.map_err(|error| failed(error.into()))?;
    line.map_err(failed)
}
