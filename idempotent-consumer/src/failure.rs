//! What a failure means, decided by SQLSTATE or error type and never by a message's text. Pure.

use std::error::Error;

/// What is to become of the messages behind a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The world around us: database or network. Wait and try again; no message is to blame.
    Infrastructure,
    /// The message: it will fail the same way every time. Dead letter at once.
    Permanent,
    /// Perhaps the message, perhaps the moment. Try it again, up to the limit.
    Retryable,
    /// Us: a wrong schema or a wrong program. Stop, and dead-letter nothing.
    Stop,
}

impl FailureClass {
    /// The name in `dead_letters.error_class`, in headers and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Permanent => "permanent",
            Self::Retryable => "retryable",
            Self::Stop => "stop",
        }
    }
}

/// The class of an SQLSTATE. What is not listed is infrastructure: waiting loses nothing.
pub fn class_of_sqlstate(code: &str) -> FailureClass {
    match code {
        // query_canceled: our own statement_timeout, so this message was too slow.
        // in_failed_sql_transaction: the handler went on after a statement of its own had failed.
        "57014" | "25P02" => FailureClass::Retryable,
        _ => match code.get(..2) {
            Some("22" | "23" | "P0") => FailureClass::Permanent,
            Some("42" | "XX") => FailureClass::Stop,
            _ => FailureClass::Infrastructure,
        },
    }
}

/// Whether a database error may be of one batch's making. Not if it is of the whole database (disk
/// full, too many connections, read-only, a storage error), though small transactions may go
/// through.
pub fn may_be_of_one_batch(error: &sqlx::Error) -> bool {
    !sqlstate(error).is_some_and(|code| matches!(code.get(..2), Some("25" | "53" | "58")))
}

/// The class of an error of the database client.
pub fn class_of(error: &sqlx::Error) -> FailureClass {
    match error {
        sqlx::Error::Database(database) => {
            database.code().map_or(FailureClass::Infrastructure, |code| class_of_sqlstate(&code))
        }
        // What the program asked for and what the database has differ: types, columns, rows.
        sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_) => FailureClass::Stop,
        // A value that this client cannot even send.
        sqlx::Error::Encode(_) => FailureClass::Permanent,
        _ => FailureClass::Infrastructure,
    }
}

/// The class of any error: that of the first database error among its sources.
pub fn class_of_any(error: &(dyn Error + 'static)) -> FailureClass {
    database_error(error).map_or(FailureClass::Infrastructure, class_of)
}

/// The first error of the database client among an error's sources.
pub fn database_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a sqlx::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(database) = error.downcast_ref::<sqlx::Error>() {
            return Some(database);
        }
        next = error.source();
    }
    None
}

/// Whether the connection may still be used after this error.
pub fn keeps_connection(error: &sqlx::Error) -> bool {
    match error {
        // Class 57P: the server is going away; 08: the connection is broken.
        sqlx::Error::Database(database) => {
            database.code().is_some_and(|code| !code.starts_with("57P") && !code.starts_with("08"))
        }
        sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// The machine-readable code of an error: its SQLSTATE, or `None` if no database error is in it.
pub fn sqlstate(error: &(dyn Error + 'static)) -> Option<String> {
    match database_error(error)? {
        sqlx::Error::Database(database) => database.code().map(std::borrow::Cow::into_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_listed_sqlstate_has_its_class() {
        use FailureClass::{Infrastructure, Permanent, Retryable, Stop};
        for (code, class) in [
            ("08006", Infrastructure),
            ("40001", Infrastructure),
            ("40P01", Infrastructure),
            ("53100", Infrastructure),
            ("53300", Infrastructure),
            ("55P03", Infrastructure),
            ("57P01", Infrastructure),
            ("57P03", Infrastructure),
            ("58030", Infrastructure),
            ("25006", Infrastructure),
            ("57014", Retryable),
            ("22003", Permanent),
            ("22P05", Permanent),
            ("23505", Permanent),
            ("23514", Permanent),
            ("P0001", Permanent),
            ("42P01", Stop),
            ("42703", Stop),
            ("XX000", Stop),
        ] {
            assert_eq!(class_of_sqlstate(code), class, "{code}");
        }
    }

    #[test]
    fn a_database_error_is_found_under_the_errors_that_wrap_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("while saving")]
        struct Wrapped(#[source] sqlx::Error);
        assert_eq!(class_of_any(&Wrapped(sqlx::Error::RowNotFound)), FailureClass::Stop);
        assert_eq!(class_of_any(&std::fmt::Error), FailureClass::Infrastructure);
    }

    proptest! {
        #[test]
        fn any_text_as_sqlstate_has_a_class(code in ".{0,8}") {
            let class = class_of_sqlstate(&code);
            let listed = ["22", "23", "P0", "42", "XX", "57014", "25P02"].iter().any(|p| code.starts_with(p));
            prop_assert!(listed || class == FailureClass::Infrastructure);
        }
    }
}
