//! The beginning and the end of a process: its arguments, its signals, and its exit code.

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// A command line that parses but asks for something impossible: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}\n\nFor more information, try '--help'.")]
pub struct WrongUse(pub String);

impl From<crate::SettingsError> for WrongUse {
    fn from(error: crate::SettingsError) -> Self {
        Self(error.to_string())
    }
}

/// The process's arguments. Where there is nothing to run, after `--help` or a mistake, what there is
/// to say is printed.
///
/// # Errors
/// The code to end with.
pub fn parse<C: clap::Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|error| {
        // Nowhere to complain to if this fails.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}

/// Runs a command on a runtime of its own, and tells of its failure: code 2 if it is a [`WrongUse`], 1
/// if not. `E` is an error with its causes, such as `anyhow`'s.
pub fn run<E>(command: impl Future<Output = Result<ExitCode, E>>) -> ExitCode
where
    E: Display + AsRef<dyn Error + Send + Sync>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(command);
    // A transaction, a server or a broker that hangs must not keep a process that is done.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        let error: &(dyn Error + 'static) = error.as_ref();
        if let Some(advice) = super::advice(error) {
            eprintln!("{advice}");
        }
        ExitCode::from(if is_wrong_use(error) { 2 } else { 1 })
    })
}

fn is_wrong_use(error: &(dyn Error + 'static)) -> bool {
    error.is::<WrongUse>() || error.source().is_some_and(is_wrong_use)
}

/// A signal cannot be listened for.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for {name}")]
pub struct SignalError {
    name: &'static str,
    source: std::io::Error,
}

/// Fires on SIGTERM and ctrl-C, when `stopping` has said so. A second one ends the process at once,
/// with the code that `at_once` gives. To be called on a runtime.
///
/// # Errors
/// The system gives us no signals.
pub fn stop_on_signals(
    stopping: impl FnOnce() + Send + 'static,
    at_once: impl FnOnce() -> i32 + Send + 'static,
) -> Result<CancellationToken, SignalError> {
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    let fired = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        stopping();
        fired.cancel();
        signals.next().await;
        std::process::exit(at_once());
    });
    Ok(stop)
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, SignalError> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind, name| signal(kind).map_err(|source| SignalError { name, source });
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
    fn new() -> Result<Self, SignalError> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
