//! One stack for all tests of a process.

use std::env;
use std::sync::OnceLock;

use crate::database::create_database;
use crate::error::StackError;
use crate::options::Options;
use crate::stack::Stack;

/// Where Kafka and PostgreSQL are.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Endpoints {
    /// For `bootstrap.servers`.
    pub bootstrap_servers: String,
    /// Of the database `orders`.
    pub database_url: String,
}

impl Endpoints {
    /// Creates an empty database and returns its URL.
    pub fn create_database(&self, name: &str) -> Result<String, StackError> {
        create_database(&self.database_url, name)
    }
}

/// The servers for tests that isolate themselves by topic and database.
///
/// With `KAFKA_BOOTSTRAP_SERVERS` and `DATABASE_URL` set, those; else a stack that the first
/// caller starts and that ends with this process. May be called from within an async runtime,
/// where the first call blocks for some seconds.
///
/// # Panics
/// If the stack cannot be started (with what to do), or only one of the variables is set.
pub fn shared() -> &'static Endpoints {
    static SHARED: OnceLock<(Endpoints, Option<Stack>)> = OnceLock::new();
    let (endpoints, _) = SHARED.get_or_init(|| {
        let kafka = env::var("KAFKA_BOOTSTRAP_SERVERS").ok();
        let database = env::var("DATABASE_URL").ok();
        match from_variables(kafka, database) {
            Ok(Some(endpoints)) => (endpoints, None),
            Ok(None) => match Stack::start(Options::private("shared")) {
                Ok(stack) => (stack.endpoints().clone(), Some(stack)),
                Err(error) => panic!("the tests need Kafka and PostgreSQL:\n{error}"),
            },
            Err(message) => panic!("{message}"),
        }
    });
    endpoints
}

fn from_variables(
    kafka: Option<String>,
    database: Option<String>,
) -> Result<Option<Endpoints>, &'static str> {
    match (kafka, database) {
        (Some(bootstrap_servers), Some(database_url)) => {
            Ok(Some(Endpoints { bootstrap_servers, database_url }))
        }
        (None, None) => Ok(None),
        _ => Err("KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL go together: set both, or none to \
                  have the tests start their own servers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_variables_are_used_one_alone_is_refused() {
        let text = |text: &str| Some(text.to_owned());
        let both = from_variables(text("k:1"), text("postgres://d")).unwrap().unwrap();
        assert_eq!(both.bootstrap_servers, "k:1");
        assert_eq!(from_variables(None, None), Ok(None));
        assert!(from_variables(text("k:1"), None).is_err());
        assert!(from_variables(None, text("postgres://d")).is_err());
    }
}
