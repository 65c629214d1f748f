//! ctrl-C and SIGTERM.

use idempotent_consumer::cli::{SignalError, stop_on_signals};
use tokio_util::sync::CancellationToken;

use crate::Exit;

/// Whether the user asked to stop. The first signal asks, loops see it within a tenth of a
/// second and flush; a second one ends the process at once.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(CancellationToken);

impl Interrupt {
    /// Listens for signals from now on.
    pub(crate) fn listen(runtime: &tokio::runtime::Runtime) -> Result<Self, SignalError> {
        let _guard = runtime.enter();
        let stopping =
            || crate::output::say!("stopping: finishing what is under way (again: stop at once)");
        Ok(Self(stop_on_signals(stopping, || i32::from(Exit::Incomplete.code()))?))
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
