//! Metrics of the mails. Those of the messages are the engine's.

use std::time::Duration;

use crate::smtp::NotSent;

const MAILS: &str = "notification_service_mails_total";
const SECONDS: &str = "notification_service_send_seconds";

/// What may become of a mail.
const OUTCOMES: [&str; 4] = ["sent", "refused", "put_off", "server_away"];

/// Tells the recorder what each metric is, and begins the counters at zero: what first shows with a
/// value has not risen, to Prometheus.
pub(crate) fn describe() {
    metrics::describe_counter!(MAILS, "Mails given to the SMTP server, by its answer");
    metrics::describe_histogram!(
        SECONDS,
        "Time until the server has taken a mail, with that of a new connection"
    );
    for outcome in OUTCOMES {
        metrics::counter!(MAILS, "outcome" => outcome).increment(0);
    }
}

/// Counts a mail that was given to the server. One that is put off or meets no server comes again, and
/// is counted again.
pub(crate) fn attempt(sent: Result<&str, &NotSent>, took: Duration) {
    let [taken, refused, put_off, server_away] = OUTCOMES;
    let outcome = match sent {
        Ok(_) => taken,
        Err(NotSent::Refused { .. }) => refused,
        Err(NotSent::PutOff(_)) => put_off,
        Err(NotSent::Away(_)) => server_away,
    };
    metrics::counter!(MAILS, "outcome" => outcome).increment(1);
    if sent.is_ok() {
        metrics::histogram!(SECONDS).record(took.as_secs_f64());
    }
}
