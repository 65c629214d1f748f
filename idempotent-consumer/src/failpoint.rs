//! Named points at which a process can be told to die, for the attacks of `faults`.
//!
//! Without the feature `failpoints` a point is nothing. With it, `FAILPOINT=NAME[:N]` ends the
//! process by SIGKILL when it comes to that point for the N-th time, `FAILPOINT_FROM=FILE` does so at
//! the point that the file names, which may appear at any time, `FAILPOINT_FREEZES=NAME[:N]` stops the
//! process there by SIGSTOP until somebody continues it, and `FAILPOINTS_SEEN=FILE` has each point that
//! is reached noted there, once.

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!(
    "`failpoints` lets an environment variable kill the process: never in a release build"
);

/// Every point of the consumer, in the order in which a message meets them first: every COPY has one
/// inside, also those of dead letters, of the outbox and of the retry queue.
pub const CONSUMER: [&str; 20] = [
    "owner.on_assign",
    "consumer.before_take_over",
    "consumer.after_take_over",
    "consumer.before_begin",
    "consumer.after_begin",
    "consumer.inside_copy",
    "consumer.after_claim",
    "consumer.before_effects",
    "consumer.after_effects",
    "consumer.after_dead_letters",
    "consumer.after_joining_retry_queue",
    "consumer.after_leaving_retry_queue",
    "consumer.before_commit",
    "consumer.after_commit",
    "consumer.before_store_offset",
    "consumer.after_store_offset",
    "relay.before_send",
    "relay.after_send_before_delete",
    "relay.after_delete",
    "owner.on_revoke",
];

/// Every point of the producer.
pub const PRODUCER: [&str; 4] = [
    "producer.before_send",
    "producer.after_send_before_ack",
    "producer.after_ack_before_manifest",
    "producer.after_manifest",
];

/// Every point of a pipe, in the order in which a record meets them.
pub const PIPE: [&str; 6] = [
    "pipe.after_read",
    "pipe.after_begin",
    "pipe.after_produce",
    "pipe.after_offsets",
    "transaction.before_commit",
    "pipe.after_commit",
];

/// Every point of the HTTP gateway.
pub const GATEWAY: [&str; 4] = [
    "gateway.before_placing",
    "gateway.after_placing_before_answer",
    "gateway.before_commit",
    "gateway.after_commit_before_answer",
];

/// Every point of the notification service, beside those of the consumer.
pub const NOTIFIER: [&str; 2] = ["notifier.before_send", "notifier.after_send"];

/// The process is at this point.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn failpoint(_name: &'static str) {}

/// The process is at this point.
#[cfg(feature = "failpoints")]
pub fn failpoint(name: &'static str) {
    armed::reached(name);
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::HashMap;
    use std::io::Write as _;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, getpid, kill_process};

    /// A point, and the how manieth time.
    type Wanted = Option<(String, u64)>;

    static FATAL: LazyLock<Wanted> = LazyLock::new(|| wanted("FAILPOINT"));
    static FREEZING: LazyLock<Wanted> = LazyLock::new(|| wanted("FAILPOINT_FREEZES"));
    static FROM: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FAILPOINT_FROM").ok());
    static SEEN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FAILPOINTS_SEEN").ok());
    static TIMES: LazyLock<Mutex<HashMap<&'static str, u64>>> = LazyLock::new(Mutex::default);

    /// Stops this process. The signal may come to another thread first, so this one goes no further by
    /// itself: until time has passed that it did not see, or nobody has stopped it after all.
    fn freeze() {
        const UNSEEN: Duration = Duration::from_secs(1);
        let began = Instant::now();
        let mut seen = began;
        let _ = kill_process(getpid(), Signal::STOP);
        while seen.elapsed() < UNSEEN && began.elapsed() < 60 * UNSEEN {
            seen = Instant::now();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wanted(variable: &str) -> Wanted {
        let wanted = std::env::var(variable).ok()?;
        match wanted.split_once(':') {
            Some((name, times)) => Some((name.to_owned(), times.parse().unwrap_or(1))),
            None => Some((wanted, 1)),
        }
    }

    /// Whether somebody wants the process to die at this point from now on.
    fn is_named_by_file(name: &str) -> bool {
        let file = FROM.as_ref().map(std::fs::read_to_string);
        file.is_some_and(|text| text.is_ok_and(|text| text.trim_end() == name))
    }

    pub(super) fn reached(name: &'static str) {
        if is_named_by_file(name) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
        let is_here = |wanted: &&(String, u64)| wanted.0 == name;
        let fatal = FATAL.as_ref().filter(is_here);
        let freezing = FREEZING.as_ref().filter(is_here);
        if fatal.is_none() && freezing.is_none() && SEEN.is_none() {
            return;
        }
        // Held until the end, so that the point is not passed by others meanwhile.
        let mut all = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
        let times = all.entry(name).or_default();
        *times += 1;
        if *times == 1
            && let Some(file) = SEEN.as_ref()
            && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(file)
        {
            // One write, so that those of several processes do not mix.
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        if fatal.is_some_and(|(_, at)| at == times) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
        if freezing.is_some_and(|(_, at)| at == times) {
            freeze();
        }
    }
}
