//! How a command fails: one line, then the hint, exit status 1.

use std::process::ExitCode;

use crate::stdx::hint::{Hint, chain};

#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn report(&self) -> ExitCode {
        eprintln!("remint: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(1)
    }
}

impl<E: std::error::Error + Hint + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { message: chain(&error), hint: error.hint() }
    }
}
