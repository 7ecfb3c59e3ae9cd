//! How a job ends when it does not succeed, and the exit code that tells cron and Airflow what to do about it.

/// Why a command ended without its result. The variant decides the exit code, the text tells a person what to do.
///
/// Put one into the error chain (`return Err(Failure::Busy(…).into())`, or `.context(Failure::…)`): `main` looks for
/// the first one. A chain without one is a bug (70).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There was nothing to do (99): Airflow shows the task as skipped.
    #[error("{0}")]
    NothingToDo(String),
    /// Flags that clap cannot judge are wrong (2).
    #[error("{0}")]
    Usage(String),
    /// A date or a range of dates is not acceptable (64).
    #[error("{0}")]
    BadDate(String),
    /// Data are not as they must be; running again will not help (65).
    #[error("{0}")]
    DataCheck(String),
    /// Something this command needs does not answer; running again later may help (69).
    #[error("{0}")]
    Unavailable(String),
    /// A lock is held or the mirror is behind; running again later will help (75).
    #[error("{0}")]
    Busy(String),
    /// The configuration, or the set-up of a part, is wrong (78).
    #[error("{0}")]
    Config(String),
    /// Ended by a signal (128 + its number).
    #[error("interrupted by signal {0}")]
    Signal(u8),
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NothingToDo(_) => 99,
            Self::Usage(_) => 2,
            Self::BadDate(_) => 64,
            Self::DataCheck(_) => 65,
            Self::Unavailable(_) => 69,
            Self::Busy(_) => 75,
            Self::Config(_) => 78,
            Self::Signal(number) => 128u8.saturating_add(*number),
        }
    }

    /// The failure with this exit code; `None` for success, for a bug (70) and for a signal.
    pub fn of_exit_code(code: u8, text: String) -> Option<Self> {
        match code {
            99 => Some(Self::NothingToDo(text)),
            2 => Some(Self::Usage(text)),
            64 => Some(Self::BadDate(text)),
            65 => Some(Self::DataCheck(text)),
            69 => Some(Self::Unavailable(text)),
            75 => Some(Self::Busy(text)),
            78 => Some(Self::Config(text)),
            _ => None,
        }
    }

    /// The exit code of any error: that of the first `Failure` in its chain, else 70.
    pub fn exit_code_of(error: &anyhow::Error) -> u8 {
        error
            .downcast_ref::<Self>()
            .or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Self>()))
            .map_or(70, Self::exit_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_failure_survives_as_its_exit_code() {
        for code in [99, 2, 64, 65, 69, 75, 78] {
            let failure = Failure::of_exit_code(code, "text".into());
            assert_eq!(failure.map(|failure| (failure.exit_code(), failure.to_string())), Some((code, "text".into())));
        }
        assert!([0, 70, 130].iter().all(|code| Failure::of_exit_code(*code, String::new()).is_none()));
    }

    #[test]
    fn the_first_failure_in_a_chain_decides() {
        let error = anyhow::Error::from(Failure::Busy("held".into())).context("building the day");
        assert_eq!(Failure::exit_code_of(&error), 75);
        let error = Err::<(), _>(std::io::Error::other("refused"))
            .context(Failure::Unavailable("no PostgreSQL".into()))
            .unwrap_err();
        assert_eq!(Failure::exit_code_of(&error), 69);
        assert_eq!(Failure::exit_code_of(&anyhow::anyhow!("surprise")), 70);
    }
}
