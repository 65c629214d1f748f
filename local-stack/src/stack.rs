//! Both servers together.

use std::path::Path;

use crate::database::create_database;
use crate::dist::Dist;
use crate::error::StackError;
use crate::files;
use crate::home::Home;
use crate::kafka;
use crate::kind::Kind;
use crate::options::Options;
use crate::postgres::{self, Postgres};
use crate::progress;
use crate::registry::{self, Claim};
use crate::server::Server;
use crate::shared::Endpoints;

/// A Kafka broker and a PostgreSQL server that run as children of this process.
///
/// Dropping it stops them, and removes their data unless it is to be kept. They also end when
/// this process does, however that happens; then the next start removes the data.
#[derive(Debug)]
pub struct Stack {
    endpoints: Endpoints,
    kafka: Server,
    postgres: Postgres,
    // Last: others may have the name when the servers are gone.
    claim: Claim,
}

impl Stack {
    /// Starts both servers and waits until they are ready: 2 to 4 s, and on the first start on a
    /// machine as long as the download takes.
    pub fn start(options: Options) -> Result<Stack, StackError> {
        let home = Home::find()?;
        let dist = Dist::ensure(&home)?;
        let claim = registry::claim(&home, &options)?;
        let Options { kafka_properties, kafka_listeners, postgres_settings, .. } = options;
        let record = &claim.record;
        let endpoints = Endpoints {
            bootstrap_servers: format!("127.0.0.1:{}", record.kafka_port),
            database_url: postgres::url(record.postgres_port),
        };
        let setup = kafka::Setup {
            folder: claim.place.server(Kind::Kafka),
            port: record.kafka_port,
            controller_port: record.controller_port,
            properties: &kafka_properties,
            listeners: &kafka_listeners,
        };
        let kafka = kafka::prepare(&dist, &setup)?;
        let folder = claim.place.server(Kind::Postgres);
        let postgres = Postgres::prepare(&dist, &folder, record.postgres_port, &postgres_settings)?;
        let stack = Stack { endpoints, kafka, postgres, claim };
        std::thread::scope(|scope| {
            let kafka = scope.spawn(|| stack.kafka.start());
            let postgres = stack.postgres.start();
            kafka.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(postgres)
        })?;
        Ok(stack)
    }

    /// For `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.endpoints.bootstrap_servers
    }

    /// Of the database `orders`, as its superuser `orders`.
    pub fn database_url(&self) -> &str {
        &self.endpoints.database_url
    }

    /// Creates an empty database and returns its URL.
    pub fn create_database(&self, name: &str) -> Result<String, StackError> {
        create_database(self.database_url(), name)
    }

    /// The broker.
    pub fn kafka(&self) -> &Server {
        &self.kafka
    }

    /// The database server.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The folder with data and logs.
    pub fn folder(&self) -> &Path {
        self.claim.place.path()
    }

    /// Where both servers are.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Fails when a server ended by itself, with the last lines of its log.
    pub fn check(&self) -> Result<(), StackError> {
        self.kafka.check()?;
        self.postgres.check()
    }

    /// Lets the stack go on in the background, also when this process ends, until
    /// [`down`](crate::down) or `cargo stack down`.
    pub fn detach(mut self) -> Result<Endpoints, StackError> {
        self.claim.record.detached = true;
        self.claim.place.write(&self.claim.record)?;
        self.kafka.let_go();
        self.postgres.let_go();
        Ok(self.endpoints.clone())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let record = &self.claim.record;
        if record.detached {
            return;
        }
        let stopped = if record.keep_data {
            self.kafka.terminate().and(self.postgres.terminate())
        } else {
            let stopped = self.kafka.stop_at_once().and(self.postgres.stop_at_once());
            stopped.and(files::remove_folder(self.claim.place.path()))
        };
        // A drop cannot fail, and the next start cleans up what this one left.
        if let Err(error) = stopped {
            progress::note(&format!("stopping the stack `{}`: {error}", record.name));
        }
    }
}
