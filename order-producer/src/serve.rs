//! `serve`: orders over HTTP, each accepted once however often it is sent.
//!
//! A request that changes something is one transaction in PostgreSQL ([`accept`]): its Idempotency-Key,
//! the order, the event in the outbox, and the answer. New orders share one ([`together`]). The relay
//! publishes the outbox; so orders are accepted while Kafka is away, and nothing is half done while
//! PostgreSQL is.
//!
//! What becomes of a request is [`decide`], what a client is told of an order is [`truth`], and what is
//! wrong with a body is [`body`]; none of them does IO. All SQL is in [`store`].

mod accept;
mod answer;
mod attend;
mod auth;
mod body;
mod code;
mod connections;
mod cors;
mod cursor;
mod decide;
mod fields;
mod guard;
mod health;
mod idempotency;
mod incoming;
mod json;
pub mod keys;
mod limits;
mod look;
mod openapi;
mod operations;
mod pages;
mod problem;
mod query;
mod routes;
mod schema;
mod store;
mod tls;
mod together;
mod trace;
mod truth;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Bytes;
use clap::Args;
use clap::builder::BoolishValueParser;
use idempotent_consumer::cli::{self, KafkaArgs, TraceArgs, WrongUse, parse_duration, parse_ratio};
use idempotent_consumer::outbox::Relay;
use idempotent_consumer::probes::Metrics;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::accept::Publishing;
use self::health::{Behind, Database};
use self::together::Together;
use crate::Exit;
use crate::cli::{App, DEFAULT_SOURCE, DEFAULT_TOPIC, parse_source};
use crate::interrupt::Interrupt;

/// Least time that an Idempotency-Key is kept: clients may rely on it.
const KEY_RETENTION_MIN: Duration = Duration::from_hours(24);
/// How long a stop waits for requests and for the relay, together.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// `order-producer serve`
#[derive(Args)]
#[command(after_help = "\
Example:
  order-consumer migrate
  order-producer serve --no-auth &
  curl -i http://127.0.0.1:8080/v1/orders -H 'content-type: application/json' \\
    -H 'idempotency-key: 8e03978e-40d5-43dd-bc93-6894a57f9324' \\
    -d '{\"customer_id\":\"c-17\",\"currency\":\"EUR\",\"items\":[{\"sku\":\"TEA-1\",\"quantity\":2,\"unit_price_cents\":450}]}'")]
pub struct ServeArgs {
    /// Address of the API, and of /livez, /readyz and /metrics
    #[arg(
        long,
        env = "ORDER_PRODUCER_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "HOST:PORT",
        hide_env_values = true
    )]
    listen: SocketAddr,

    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    requests: guard::GuardArgs,

    #[command(flatten)]
    cors: cors::CorsArgs,

    #[command(flatten)]
    tls: tls::TlsArgs,

    /// How long an Idempotency-Key and its answer are kept, at least 24h
    #[arg(
        long,
        env = "ORDER_PRODUCER_KEY_RETENTION",
        default_value = "48h",
        value_name = "DURATION",
        value_parser = parse_retention,
        hide_env_values = true
    )]
    key_retention: Duration,

    #[command(flatten, next_help_heading = "Kafka")]
    kafka: KafkaArgs,

    /// Topic to publish to
    #[arg(long, env = "ORDERS_TOPIC", default_value = DEFAULT_TOPIC, hide_env_values = true)]
    topic: String,

    /// Do not create the topic if it is missing
    #[arg(
        long,
        env = "ORDER_PRODUCER_NO_CREATE_TOPICS",
        value_parser = BoolishValueParser::new(),
        hide_env_values = true
    )]
    no_create_topics: bool,

    /// CloudEvents source: who sends, as a URI reference
    #[arg(
        long,
        env = "ORDER_PRODUCER_SOURCE",
        default_value = DEFAULT_SOURCE,
        value_name = "URI",
        value_parser = parse_source,
        hide_env_values = true
    )]
    source: String,

    #[command(flatten, next_help_heading = "Traces")]
    trace: TraceArgs,

    /// With --otlp-endpoint: the share of requests without a traceparent whose trace is sampled
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER_ARG",
        default_value_t = 1.0,
        value_name = "0..1",
        value_parser = parse_ratio,
        hide_env_values = true
    )]
    trace_ratio: f64,
}

/// The database.
#[derive(Args, Clone)]
#[command(mut_arg("database_url", |url| {
    url.required(false).default_value("postgres://orders:orders@localhost:5432/orders")
}))]
pub struct DatabaseArgs {
    #[command(flatten)]
    server: cli::DatabaseArgs,

    /// Most connections to the database
    #[arg(
        long,
        env = "ORDER_PRODUCER_DATABASE_CONNECTIONS",
        default_value_t = 16,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1000),
        hide_env_values = true
    )]
    database_connections: u32,
}

fn parse_retention(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time < KEY_RETENTION_MIN => Err("clients rely on at least 24h".to_owned()),
        time => Ok(time),
    }
}

/// What every request needs.
pub(crate) struct Gateway {
    pool: PgPool,
    together: Together,
    publishing: Publishing,
    guard: guard::Guard,
    health: health::GatewayHealth,
    /// The share of new traces that is sampled.
    trace_ratio: f64,
    cors: cors::Cors,
    /// What the API's addresses begin with: `http` or `https`.
    scheme: &'static str,
    /// The OpenAPI document, as it is sent.
    openapi: Bytes,
}

/// The OpenAPI document of the API: of one that asks for API keys, or of one that does not.
pub fn openapi(asks_for_keys: bool) -> serde_json::Value {
    openapi::document(&routes::all(), asks_for_keys)
}

impl ServeArgs {
    pub(crate) fn run(&self, app: &App) -> anyhow::Result<Exit> {
        app.runtime.block_on(self.serve(&app.interrupt))
    }

    async fn serve(&self, interrupt: &Interrupt) -> anyhow::Result<Exit> {
        let settings = self.kafka.settings().map_err(WrongUse::from)?;
        self.requests.check(self.listen)?;
        self.cors.check(self.requests.asks_for_keys())?;
        let (tls, renewal) = self.tls.start()?.unzip();
        let exporting = self.trace.start("order-producer")?;
        let pool = self.database.pool().await?;
        schema::check(&pool).await?;
        let metrics = Metrics::install_with_summaries()?;
        let listener = TcpListener::bind(self.listen).await.with_context(|| {
            format!("cannot listen on {}; --listen takes another address", self.listen)
        })?;
        let address = listener.local_addr()?;

        let scheme = if tls.is_some() { "https" } else { "http" };

        let relay = Relay::new(settings.clone(), (*pool.connect_options()).clone());
        let (behind, database) = (Behind::default(), Database::default());
        let gateway = Arc::new(Gateway {
            pool: pool.clone(),
            together: Together::start(&pool),
            publishing: Publishing {
                topic: self.topic.clone(),
                source: self.source.clone(),
                trace: None,
            },
            guard: guard::Guard::new(&self.requests),
            health: health::GatewayHealth::new(
                relay.health(),
                behind.clone(),
                database.clone(),
                metrics,
            ),
            trace_ratio: self.trace_ratio,
            cors: cors::Cors::new(&self.cors, &routes::all()),
            scheme,
            openapi: openapi(self.requests.asks_for_keys()).to_string().into(),
        });
        let stop = CancellationToken::new();
        let relay_stop = CancellationToken::new();
        let relay = tokio::spawn(relay.run(relay_stop.clone()));
        let upkeep = upkeep::Upkeep { pool, behind, database, key_retention: self.key_retention };
        let upkeep = tokio::spawn(upkeep.run(stop.clone()));
        let topic = (!self.no_create_topics).then(|| self.topic.clone());
        renewal.map(|renewal| tokio::spawn(renewal.run(stop.clone())));
        let topics = tokio::spawn(upkeep::ensure_topic(settings, topic, stop.clone()));

        let app = routes::router(gateway);
        tracing::info!("orders on {scheme}://{address}/v1/orders");
        let connections_max = self.requests.connections_max();
        let mut server =
            tokio::spawn(connections::serve(listener, app, connections_max, tls, stop.clone()));
        tokio::select! {
            () = interrupt.wait() => {}
            ended = &mut server => {
                ended.context("the server panicked")?;
                anyhow::bail!("the server ended by itself");
            }
        }
        stop.cancel();
        let drained = tokio::time::timeout(STOP_TIMEOUT, async {
            // Requests first: each may still write to the outbox.
            let _ = (&mut server).await;
            relay_stop.cancel();
            let _ = tokio::join!(relay, upkeep, topics);
        });
        if drained.await.is_err() {
            tracing::warn!("stopped with work under way; what was accepted stays in the outbox");
        }
        exporting.finish().await;
        Ok(Exit::Done)
    }
}

impl DatabaseArgs {
    /// A pool, once a first connection has been made.
    pub(crate) async fn pool(&self) -> anyhow::Result<PgPool> {
        let options = self.server.options()?.application_name("order-producer");
        let nodelay = options.clone();
        let limits = PgPoolOptions::new()
            .max_connections(self.database_connections)
            .acquire_timeout(Duration::from_secs(5))
            .after_connect(move |connection, _| {
                idempotent_consumer::nodelay::set_on_connections(&nodelay);
                Box::pin(store::begin_session(connection))
            });
        Ok(cli::pool(options, limits).await?)
    }
}
