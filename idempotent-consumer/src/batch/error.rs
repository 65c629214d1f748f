//! Why a transaction over a piece of a batch fails, and what that means for its messages.

use std::time::Duration;

use super::spans::Spans;
use crate::failure::{FailureClass, class_of, keeps_connection, sqlstate};
use crate::handler::HandlerError;
use crate::outcome::ClaimVanished;
use crate::store::batch::{BatchError, Counts};

/// Why one transaction over a piece of a batch failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PieceError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The commit was sent, and its answer did not come. If it went through, progress is there.
    #[error("the outcome of the commit is unknown: {error}")]
    Commit {
        error: BatchError,
        next_offset: Option<i64>,
        database_next: i64,
        counts: Counts,
        /// What has become of the messages, if it went through.
        spans: Box<Spans>,
    },
    #[error("{0}")]
    Handler(HandlerError),
    #[error("the handler took longer than {} s", .0.as_secs_f64())]
    HandlerTimeout(Duration),
    #[error("the handler panicked: {0}")]
    HandlerPanic(String),
    #[error("the handler gave {got} answers for {expected} messages")]
    WrongAnswers { expected: usize, got: usize },
    #[error(transparent)]
    Vanished(#[from] ClaimVanished),
    /// The records came in while nobody could say from which log.
    #[error("Kafka does not tell the topic's id: {0}")]
    LogUnknown(String),
    /// Records of another log than the one that progress is of: the topic was deleted meanwhile.
    #[error("the topic was deleted, or deleted and created anew")]
    LogReplaced,
    #[error("{dead} of the last {of} messages were to be dead-lettered, above the allowed share")]
    TooManyDeadLetters { dead: u64, of: u64 },
}

impl PieceError {
    /// What it means for the messages of the piece.
    pub(crate) fn class(&self) -> FailureClass {
        match self {
            Self::Batch(BatchError::Database(error)) => class_of_own(error),
            Self::Commit { error: BatchError::Database(error), .. } => class_of(error),
            Self::Handler(error) => error.class(),
            Self::HandlerTimeout(_) | Self::HandlerPanic(_) => FailureClass::Retryable,
            Self::Batch(BatchError::TransactionEnded)
            | Self::WrongAnswers { .. }
            | Self::TooManyDeadLetters { .. } => FailureClass::Stop,
            Self::Batch(BatchError::Fenced | BatchError::Moved)
            | Self::Commit { .. }
            | Self::Vanished(_)
            | Self::LogUnknown(_)
            | Self::LogReplaced => FailureClass::Infrastructure,
        }
    }

    /// The machine-readable code of the dead letter that this failure may end in.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::HandlerTimeout(_) => "handler_timeout".to_owned(),
            Self::HandlerPanic(_) => "handler_panicked".to_owned(),
            _ => self
                .database_error()
                .and_then(|error| sqlstate(error))
                .map_or_else(|| "handler_failed".to_owned(), |state| format!("sqlstate_{state}")),
        }
    }

    /// The database error in it.
    pub(crate) fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Handler(error) => error.database_error(),
            Self::Batch(BatchError::Database(error))
            | Self::Commit { error: BatchError::Database(error), .. } => Some(error),
            _ => None,
        }
    }

    /// Whether the connection is still good. A future of it that was dropped half way is not.
    pub(crate) fn keeps_connection(&self) -> bool {
        match self {
            Self::Batch(BatchError::Database(error)) => keeps_connection(error),
            Self::Handler(error) => error.keeps_connection(),
            Self::Commit { .. } | Self::HandlerTimeout(_) | Self::HandlerPanic(_) => false,
            _ => true,
        }
    }
}

/// The class of an error of the engine's own statements: no message is to blame for those.
fn class_of_own(error: &sqlx::Error) -> FailureClass {
    match class_of(error) {
        // Storage so slow that even ours are cut off.
        FailureClass::Retryable if sqlstate(error).as_deref() == Some("57014") => {
            FailureClass::Infrastructure
        }
        // A table of ours does not take what we write: somebody has changed it.
        FailureClass::Permanent => FailureClass::Stop,
        class => class,
    }
}
