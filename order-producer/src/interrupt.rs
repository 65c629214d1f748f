//! ctrl-C and SIGTERM.

use tokio_util::sync::CancellationToken;

use crate::Exit;

/// Whether the user asked to stop. The first signal asks, loops see it within a tenth of a
/// second and flush; a second one ends the process at once.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(CancellationToken);

impl Interrupt {
    /// Listens for signals from now on.
    pub(crate) fn listen(runtime: &tokio::runtime::Runtime) -> std::io::Result<Self> {
        let interrupt = Self::default();
        let asked = interrupt.0.clone();
        let mut signals = {
            let _guard = runtime.enter();
            Signals::new()?
        };
        runtime.spawn(async move {
            signals.next().await;
            asked.cancel();
            crate::output::say!("stopping: finishing what is under way (again: stop at once)");
            signals.next().await;
            std::process::exit(i32::from(Exit::Incomplete.code()));
        });
        Ok(interrupt)
    }

    /// Whether to stop.
    pub fn requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the user asks to stop.
    pub(crate) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
