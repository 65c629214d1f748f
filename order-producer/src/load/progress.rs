//! How far a load is: a bar on a terminal, else a line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Messages between two looks at the clock.
const STRIDE: u64 = 512;
const LINE_EVERY: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    next_line: Option<Instant>,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{elapsed_precise} {wide_bar} {human_pos}/{human_len} sent, {per_sec}, {eta} left {msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style)
        });
        Self { bar, total, next_line: Some(Instant::now() + LINE_EVERY) }
    }

    pub(super) fn update(&mut self, sent: u64, acknowledged: u64) {
        if !sent.is_multiple_of(STRIDE) && self.total > STRIDE {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_position(sent);
        } else if self.next_line.is_some_and(|due| Instant::now() >= due) {
            self.next_line = Some(Instant::now() + LINE_EVERY);
            crate::output::say!("{sent} of {} sent, {acknowledged} acknowledged", self.total);
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
