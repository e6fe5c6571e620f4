//! How a command ends when it does not do what it was asked.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::config::ConfigError;

/// Why a command ends early, and with which exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The settings can't be used: 2.
    Config(ConfigError),
    /// What was asked for can't be: 2.
    Usage(String),
    /// It went wrong on the way: 1.
    Run(Box<dyn Error + Send + Sync>),
    /// Whoever reads the output has enough, as `head` has: 0, without a word.
    OutputClosed,
}

impl Failure {
    /// A failure on the way, in words.
    pub(crate) fn run(what: impl Into<String>) -> Self {
        Self::Run(what.into().into())
    }

    /// A failure on the way, as the error that it was.
    pub(crate) fn of(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Run(error.into())
    }

    /// The error that it is, for what adds its own words.
    pub(crate) fn into_error(self) -> Box<dyn Error + Send + Sync> {
        match self {
            Self::Config(error) => error.into(),
            Self::Usage(why) => why.into(),
            Self::Run(error) => error,
            Self::OutputClosed => "standard output was closed".into(),
        }
    }

    /// Says why on standard error.
    pub(crate) fn report(self) -> ExitCode {
        let (code, why) = match self {
            Self::OutputClosed => return ExitCode::SUCCESS,
            Self::Config(error) => (2, error.to_string()),
            Self::Usage(why) => (2, why),
            Self::Run(error) => (1, with_causes(error.as_ref())),
        };
        // If standard error is gone as well, there is nobody left to tell.
        let _ = writeln!(io::stderr(), "tally: {why}");
        ExitCode::from(code)
    }
}

/// An error and what caused it, each once: many messages quote their cause.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text.push_str(": ");
            text.push_str(&why);
        }
        cause = error.source();
    }
    text
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the log can't be opened")]
    struct Outer(#[source] io::Error);

    /// Protects the cause from being lost, and from being said twice.
    #[test]
    fn causes_are_said_once() {
        let error = Outer(io::Error::other("no space"));
        assert_eq!(with_causes(&error), "the log can't be opened: no space");
    }
}
