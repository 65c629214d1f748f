//! Metrics that are more than a line where something happens: what waits in the tables, looked at
//! now and then, what several places count, and labels whose number has to stay small.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::failure::FailureClass;
use crate::inspect;
use crate::outcome::Verdict;
use crate::store::batch::Counts;
use crate::store::connect::connect;

/// How often the tables are looked at.
const EVERY: Duration = Duration::from_secs(10);
/// A look that takes longer is given up, and its connection with it.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many codes of dead letters have a label of their own; a handler may make up any.
const CODES_MAX: usize = 64;

const COUNTERS: [(&str, &str); 8] = [
    ("idempotent_consumer_messages_total", "Messages by what became of them in a transaction"),
    ("idempotent_consumer_dead_letters_total", "Messages that became dead letters"),
    ("idempotent_consumer_failed_transactions_total", "Transactions rolled back and tried again"),
    ("idempotent_consumer_infrastructure_failures_total", "Waits for the database or a broker"),
    ("idempotent_consumer_outbox_published_total", "Rows of the outbox that Kafka acknowledged"),
    ("idempotent_consumer_rebalances_total", "Rebalances of the group"),
    ("idempotent_consumer_spans_exported_total", "Spans that the collector has taken"),
    ("idempotent_consumer_spans_dropped_total", "Spans that were lost"),
];
const GAUGES: [(&str, &str); 8] = [
    ("idempotent_consumer_lag_records", "Records that Kafka holds and that were not read"),
    (
        "idempotent_consumer_last_record_timestamp_seconds",
        "Kafka's time of the newest record that is done with or waits in the retry queue",
    ),
    ("idempotent_consumer_outbox_rows", "Rows of the outbox"),
    ("idempotent_consumer_outbox_refused_rows", "Rows of the outbox that Kafka refuses"),
    ("idempotent_consumer_outbox_oldest_age_seconds", "Age of the oldest row of the outbox"),
    ("idempotent_consumer_retry_queue_messages", "Messages in the retry queue"),
    (
        "idempotent_consumer_retry_queue_oldest_age_seconds",
        "Time since the first failure of the oldest message in the retry queue",
    ),
    ("idempotent_consumer_ready", "1 if /readyz says so"),
];
const HISTOGRAMS: [(&str, &str); 2] = [
    ("idempotent_consumer_transaction_seconds", "Time of a transaction, begin to commit"),
    ("idempotent_consumer_transaction_messages", "Messages in a transaction"),
];

/// Tells the metrics recorder what each metric is, and begins those that alerts watch at zero: what
/// first shows with a value has not risen, to Prometheus. Call it once a recorder is installed.
pub fn describe() {
    outcomes(Counts::default());
    for class in ["infrastructure", "permanent", "retryable", "stop"] {
        metrics::counter!("idempotent_consumer_failed_transactions_total", "class" => class)
            .increment(0);
    }
    let outside = [("class", "permanent"), ("code", "outside_dedup_window")];
    metrics::counter!("idempotent_consumer_dead_letters_total", &outside).increment(0);
    for (name, what) in COUNTERS {
        metrics::describe_counter!(name, what);
    }
    for (name, what) in GAUGES {
        metrics::describe_gauge!(name, what);
    }
    for (name, what) in HISTOGRAMS {
        metrics::describe_histogram!(name, what);
    }
}

/// Counts what the messages of a transaction came to.
pub(crate) fn outcomes(counts: Counts) {
    for (outcome, count) in [
        ("applied", counts.applied),
        ("duplicate", counts.duplicates),
        ("dead_lettered", counts.dead_lettered),
        ("skipped", counts.skipped),
        ("deferred", counts.deferred),
    ] {
        metrics::counter!("idempotent_consumer_messages_total", "outcome" => outcome)
            .increment(u64::try_from(count).unwrap_or(0));
    }
}

/// Counts a transaction that was rolled back and is tried again, as a whole or in parts.
pub(crate) fn failed_transaction(class: FailureClass) {
    metrics::counter!("idempotent_consumer_failed_transactions_total", "class" => class.as_str())
        .increment(1);
}

/// Every record of the partition up to one of this time has its outcome or waits in the retry queue.
pub(crate) fn has_reached(partition: i32, at_ms: i64) {
    let partition = partition.to_string();
    metrics::gauge!("idempotent_consumer_last_record_timestamp_seconds", "partition" => partition)
        .set(at_ms as f64 / 1000.0);
}

/// Looks at what waits, until `stop` fires. What cannot be seen keeps its last value: a database that
/// does not answer shows elsewhere. The connection is this one's alone; it is given up with a look that
/// failed.
pub(crate) async fn tables(
    database: PgConnectOptions,
    group: String,
    topic: String,
    stop: CancellationToken,
) {
    let look_on = async {
        let mut connection = None;
        loop {
            let looked = look(&database, connection.take(), &group, &topic);
            match tokio::time::timeout(PATIENCE, looked).await {
                Ok(Ok(kept)) => connection = Some(kept),
                Ok(Err(error)) => tracing::debug!(%error, "metrics: cannot look at the tables"),
                Err(_) => tracing::debug!("metrics: the tables were not seen within {PATIENCE:?}"),
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    let _: Option<()> = stop.run_until_cancelled(look_on).await;
}

async fn look(
    database: &PgConnectOptions,
    kept: Option<PgConnection>,
    group: &str,
    topic: &str,
) -> Result<PgConnection, sqlx::Error> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => connect(database, "idempotent-consumer metrics").await?,
    };
    let outbox = inspect::outbox_counts(&mut connection).await?;
    let queue = inspect::retry_queue_counts(&mut connection, group, topic).await?;
    let set = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
    set("idempotent_consumer_outbox_rows", outbox.rows as f64);
    set("idempotent_consumer_outbox_refused_rows", outbox.refused_rows as f64);
    let oldest = outbox.oldest_age_seconds.unwrap_or_default();
    set("idempotent_consumer_outbox_oldest_age_seconds", oldest);
    set("idempotent_consumer_retry_queue_messages", queue.messages as f64);
    let oldest = queue.oldest_failure_age_seconds.unwrap_or_default();
    set("idempotent_consumer_retry_queue_oldest_age_seconds", oldest);
    Ok(connection)
}

/// Counts messages that have become dead letters.
pub(crate) fn dead_letters<'a>(verdicts: impl Iterator<Item = &'a Verdict>) {
    for verdict in verdicts {
        let (class, code) = (verdict.class.as_str(), label_of(&verdict.code));
        metrics::counter!("idempotent_consumer_dead_letters_total", "class" => class, "code" => code)
            .increment(1);
    }
}

/// The code, or `other` once there are many.
fn label_of(code: &str) -> Cow<'static, str> {
    static KNOWN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    bounded(known.get_or_insert_default(), code)
}

fn bounded(known: &mut HashSet<String>, code: &str) -> Cow<'static, str> {
    if known.contains(code) {
        return code.to_owned().into();
    }
    if known.len() >= CODES_MAX {
        return "other".into();
    }
    known.insert(code.to_owned());
    code.to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_codes_with_a_label_of_their_own_is_bounded() {
        let mut known = HashSet::new();
        for number in 0..CODES_MAX {
            let code = format!("code_{number}");
            assert_eq!(bounded(&mut known, &code), code);
        }
        assert_eq!(bounded(&mut known, "one_more"), "other");
        assert_eq!(bounded(&mut known, "code_0"), "code_0");
        assert_eq!(known.len(), CODES_MAX);
    }
}
