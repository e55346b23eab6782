//! How the program ends when it cannot do what it was asked.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// A failure for the terminal: what was tried, why it failed, what to do.
#[derive(Debug)]
pub struct Failure {
    what: String,
    why: String,
    hint: Option<String>,
}

impl Failure {
    /// What was tried, and the error with its causes.
    pub fn new(what: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        Self { what: what.into(), why: chain(error), hint: None }
    }

    /// What was tried, and the reason in words.
    pub fn because(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), hint: None }
    }

    /// What the operator can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints it; the exit code is 1.
    pub fn report(&self) -> ExitCode {
        eprintln!("stillframe: {self}");
        if let Some(hint) = &self.hint {
            eprintln!("            {hint}");
        }
        ExitCode::FAILURE
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
