//! Exactly-once effects in PostgreSQL for messages from Kafka.
//!
//! Kafka delivers at least once: after a crash, a rebalance or a producer's retry the same message
//! comes again. This library claims each message's id in a table with a primary key, in the same
//! transaction as the message's effect. So whatever is delivered how often, and whatever dies in
//! between, each message takes effect once, or lands in a dead letter topic once, and
//! [`audit`] proves it.
//!
//! An application is a [`Handler`] (or, message by message, a [`MessageHandler`]), an
//! [`EngineConfig`] and a pool:
//!
//! ```
//! use idempotent_consumer::{
//!     Answer, Context, Engine, EngineConfig, HandlerError, KafkaSettings, Message,
//!     MessageHandler, OneByOne, migrate,
//! };
//! use sqlx::PgPool;
//! use tokio_util::sync::CancellationToken;
//! # use idempotent_consumer::{Headers, publish::{Publication, Publisher, PublisherOptions}};
//!
//! #[derive(serde::Deserialize)]
//! struct Deposit { account: String, cents: i64 }
//!
//! struct Ledger;
//!
//! impl MessageHandler for Ledger {
//!     type Body = Deposit;
//!
//!     async fn handle(
//!         &self,
//!         context: &mut Context<'_>,
//!         message: &Message<Deposit>,
//!     ) -> Result<Answer, HandlerError> {
//!         if message.body.cents <= 0 {
//!             return Ok(Answer::rejected("not_positive", "a deposit is more than nothing"));
//!         }
//!         // Adding is not idempotent. The claim in the same transaction makes it so.
//!         sqlx::query(
//!             "INSERT INTO balances VALUES ($1, $2)
//!                  ON CONFLICT (account) DO UPDATE SET cents = balances.cents + excluded.cents",
//!         )
//!         .bind(&message.body.account)
//!         .bind(message.body.cents)
//!         .execute(context.connection())
//!         .await?;
//!         Ok(Answer::Applied)
//!     }
//! }
//!
//! # fn main() -> anyhow::Result<()> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let stack = local_stack::shared();
//! # let servers = stack.bootstrap_servers.as_str();
//! # let database_url = stack.create_database("doctest")?;
//! # let database_url = database_url.as_str();
//! let pool = PgPool::connect(database_url).await?;
//! migrate::apply(&pool).await?;
//! # sqlx::query("CREATE TABLE balances (account text PRIMARY KEY, cents bigint NOT NULL)").execute(&pool).await?;
//! # let settings = KafkaSettings::new(servers);
//! # idempotent_consumer::publish::Topics::new(&settings, std::time::Duration::from_secs(10))?.ensure("deposits", 1).await?;
//! # let publisher = Publisher::new(&settings, &PublisherOptions::default(), |_| ())?;
//! # let headers: Headers = [("ce_id", "first")].into_iter().collect();
//! # for token in 0..3 { // the same message three times
//! #     publisher.send(&Publication { topic: "deposits", partition: None, key: Some(b"a"), value: Some(br#"{"account":"a","cents":500}"#), headers: &headers }, token)?;
//! # }
//! # assert!(publisher.flush(std::time::Duration::from_secs(10)));
//! let mut config = EngineConfig::new(KafkaSettings::new(servers), "deposits", "ledger");
//! # config.exit_when_idle = Some(std::time::Duration::from_secs(1));
//! let stop = CancellationToken::new(); // cancel it, and the engine commits and returns
//! let summary = Engine::new(config, OneByOne(Ledger), pool.clone()).run(stop).await?;
//! # let cents: i64 = sqlx::query_scalar("SELECT cents FROM balances").fetch_one(&pool).await?;
//! # assert_eq!((summary.applied, summary.duplicates, cents), (1, 2, 500));
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! What becomes of a message is one short file, [`outcome`]; in which pieces a failing batch is
//! worked off, [`plan`]; what a failure means, [`failure`]. None of them does IO.

pub mod accept;
pub mod audit;
mod batch;
#[cfg(feature = "cli")]
pub mod cli;
mod config;
pub mod copy;
mod deferral;
mod engine;
#[doc(hidden)]
pub mod failpoint;
pub mod failure;
pub mod handler;
mod health;
pub mod identity;
pub mod inspect;
mod kafka;
mod lane;
mod message;
pub mod nodelay;
pub mod observe;
pub mod outcome;
mod phases;
pub mod pipe;
pub mod plan;
pub mod pooler;
#[cfg(feature = "probes")]
pub mod probes;
pub mod purge;
pub mod redrive;
mod relay;
pub mod retries;
mod retry;
mod seen;
mod shared;
mod start;
mod store;
pub mod suspects;
pub mod telemetry;
pub mod test_kit;
mod trace_context;
mod watchdog;
pub mod window;

/// Publishing records with a known end, alone or in transactions, and the topics they go to.
pub mod publish {
    pub use crate::kafka::admin::{AdminError, Ensured, Topics};
    pub use crate::kafka::publisher::{
        Acknowledged, Delivery, DeliveryError, Publication, Publisher, PublisherOptions,
    };
    pub use crate::kafka::transaction::{
        Transaction, TransactionError, Transactional, TransactionalPublisher,
    };
}

/// Publishing from a transaction without consuming: the outbox of an application of its own.
pub mod outbox {
    pub use crate::handler::Outgoing;
    pub use crate::relay::Relay;
    pub use crate::store::connect::TransactionLimits;
    pub use crate::store::outbox::publish;
}

pub use config::EngineConfig;
pub use engine::{Engine, EngineError, Summary};
pub use handler::{
    Answer, Context, Decoded, Decoder, Handler, HandlerError, Json, Message, MessageHandler,
    OneByOne, Outgoing, Poison,
};
pub use health::Health;
pub use kafka::settings::{KafkaSettings, SettingsError};
pub use message::{Fingerprint, Headers, MessageId, PartitionKey, Record};
pub use phases::LaneSeconds;
pub use retry::Backoff;
pub use store::migrate;
pub use trace_context::TraceContext;
