//! `run`: consume until told to stop.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use idempotent_consumer::cli::{
    KafkaArgs, SignalError, TraceArgs, WrongUse, parse_duration, parse_ratio, stop_on_signals,
};
use idempotent_consumer::{Backoff, Engine, EngineConfig, OneByOne, probes};
use lettre::message::Mailbox;
use tokio_util::sync::CancellationToken;

use crate::cli::DatabaseArgs;
use crate::decoder::NotificationDecoder;
use crate::handler::Notifier;
use crate::mail::Format;
use crate::recipient::Template;
use crate::smtp::{Server, Smtp};
use crate::{migrate, observe};

/// Arguments of `run`.
#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: DatabaseArgs,

    /// Topic of the notifications: `order-consumer run --notifications-topic`
    #[arg(
        long,
        env = "NOTIFICATION_SERVICE_TOPIC",
        default_value = "order-notifications",
        hide_env_values = true
    )]
    topic: String,

    /// Topic for copies of dead letters; by default the topic's name with .dlq
    #[arg(long, env = "NOTIFICATION_SERVICE_DLQ_TOPIC", hide_env_values = true)]
    dlq_topic: Option<String>,

    /// Consumer group, and scope of the claims
    #[arg(
        short,
        long,
        env = "NOTIFICATION_SERVICE_GROUP",
        default_value = "notification-service",
        hide_env_values = true
    )]
    group: String,

    /// SMTP server: smtp://host:port, smtp://user:password@host?tls=required (STARTTLS), or
    /// smtps://user:password@host; a path is the name to greet with
    #[arg(long, env = "NOTIFICATION_SERVICE_SMTP_URL", value_name = "URL", hide_env_values = true)]
    smtp_url: String,

    /// Sender of the mails, as shop@example.com or "Tea shop <shop@example.com>"
    #[arg(long, env = "NOTIFICATION_SERVICE_FROM", value_name = "ADDRESS", hide_env_values = true)]
    from: Mailbox,

    /// Mails as text, or as the same text with a page in HTML
    #[arg(
        long,
        env = "NOTIFICATION_SERVICE_MAIL_FORMAT",
        value_enum,
        default_value_t,
        hide_env_values = true
    )]
    mail_format: Format,

    /// Address of customers without a row in notification_contacts, such as
    /// {customer_id}@example.com; without it their mails are dead letters (no_recipient)
    #[arg(
        long,
        env = "NOTIFICATION_SERVICE_RECIPIENT_TEMPLATE",
        value_name = "ADDRESS",
        hide_env_values = true
    )]
    recipient_template: Option<Template>,

    /// How long the server may take before a mail's text, and again for it. A server that takes a
    /// mail and answers later gets it again
    #[arg(long, env = "NOTIFICATION_SERVICE_SMTP_TIMEOUT", default_value = "30s", value_parser = parse_timeout, value_name = "DURATION", hide_env_values = true)]
    smtp_timeout: Duration,

    /// Mails under way at once, one a partition at most
    #[arg(long, env = "NOTIFICATION_SERVICE_CONCURRENCY", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..), hide_env_values = true)]
    concurrency: u16,

    /// How often a mail that the server puts off is tried before it is dead-lettered
    #[arg(long, env = "NOTIFICATION_SERVICE_MAX_ATTEMPTS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..), hide_env_values = true)]
    max_attempts: u32,

    /// First wait before such a mail is tried again; doubles up to --retry-backoff-max
    #[arg(long, env = "NOTIFICATION_SERVICE_RETRY_BACKOFF", default_value = "5s", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    retry_backoff: Duration,

    /// Longest wait before such a mail is tried again
    #[arg(long, env = "NOTIFICATION_SERVICE_RETRY_BACKOFF_MAX", default_value = "15m", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    retry_backoff_max: Duration,

    /// Stop, dead-lettering nothing, if a larger share of recent messages would be dead-lettered,
    /// as when the server relays nothing for us
    #[arg(long, env = "NOTIFICATION_SERVICE_MAX_DEAD_LETTER_RATIO", value_parser = parse_ratio, value_name = "0..1", hide_env_values = true)]
    max_dead_letter_ratio: Option<f64>,

    #[command(flatten)]
    trace: TraceArgs,

    /// End by itself after so long with nothing to do
    #[arg(long, env = "NOTIFICATION_SERVICE_EXIT_WHEN_IDLE", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    exit_when_idle: Option<Duration>,

    /// Address of /livez, /readyz and /metrics
    #[arg(
        long,
        env = "NOTIFICATION_SERVICE_LISTEN",
        default_value = "127.0.0.1:9465",
        value_name = "HOST:PORT",
        hide_env_values = true
    )]
    listen: SocketAddr,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        timeout if timeout < Duration::from_millis(100) => Err("must be at least 100ms".to_owned()),
        timeout if timeout > Duration::from_mins(10) => Err("must be at most 10m".to_owned()),
        timeout => Ok(timeout),
    }
}

impl RunArgs {
    fn config(&self) -> anyhow::Result<EngineConfig> {
        let kafka = self.kafka.settings().map_err(WrongUse::from)?;
        let defaults = EngineConfig::new(kafka, &self.topic, &self.group);
        let dlq_topic = self.dlq_topic.clone().unwrap_or_else(|| defaults.dlq_topic.clone());
        if dlq_topic == self.topic {
            return Err(WrongUse("--topic and --dlq-topic are the same".to_owned()).into());
        }
        // Above the two limits of a mail, or the engine would give one up that may have been sent.
        let handler_timeout = self.smtp_timeout * 2 + Duration::from_secs(10);
        Ok(EngineConfig {
            dlq_topic,
            concurrency: self.concurrency.into(),
            // A mail that was sent is never in a transaction that something else can undo.
            batch_size: 1,
            // While the brokers are away, each try would send it again.
            effects_outside: true,
            max_attempts: self.max_attempts,
            retry_backoff: Backoff { base: self.retry_backoff, cap: self.retry_backoff_max },
            handler_timeout,
            max_dead_letter_ratio: self.max_dead_letter_ratio,
            exit_when_idle: self.exit_when_idle,
            // A stop waits for the mails under way, or each would be sent again.
            shutdown_timeout: handler_timeout + Duration::from_secs(5),
            ..defaults
        })
    }
}

/// Runs the engine with the notifier.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let config = args.config()?;
    let server: Server =
        args.smtp_url.parse().map_err(|error| WrongUse(format!("--smtp-url: {error}")))?;
    let exporting = args.trace.start("notification-service")?;
    let stop = stop()?;
    let pool = args.database.pool().await?;
    let schema = format!("the schema {}", args.database.schema);
    migrate::migrations().check(&pool, &schema).await?;
    tracing::info!("mails go by {server}");
    let notifier = Notifier {
        smtp: Smtp::new(server, args.smtp_timeout),
        from: args.from,
        template: args.recipient_template,
        format: args.mail_format,
    };
    let engine = Engine::with_decoder(config, OneByOne(notifier), NotificationDecoder, pool);
    let ended = probes::beside(args.listen, engine.health(), async {
        observe::describe();
        Box::pin(engine.run(stop)).await
    })
    .await;
    exporting.finish().await;
    println!("{}", serde_json::to_string(&ended??)?);
    Ok(ExitCode::SUCCESS)
}

/// Fires on SIGTERM and ctrl-C. A second signal ends the process at once.
fn stop() -> Result<CancellationToken, SignalError> {
    let stopping = || tracing::info!("stopping: finishing the mails under way");
    let at_once = || {
        eprintln!("second signal: ending at once; a mail under way is sent again");
        1
    };
    stop_on_signals(stopping, at_once)
}
