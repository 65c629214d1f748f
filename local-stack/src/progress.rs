//! What a person sees while the stack starts, on stderr.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Says one line. Not `eprintln!`: the test harness would hide the download of a first start,
/// and the test would seem to hang.
pub(crate) fn note(text: &str) {
    // Nothing can be done about a closed stderr, and the stack works without it.
    let _ = writeln!(std::io::stderr(), "local-stack: {text}");
}

/// A line that changes in a terminal, and a new line every few seconds elsewhere.
pub(crate) struct Progress {
    bar: ProgressBar,
    last_line: std::time::Instant,
}

impl Progress {
    pub(crate) fn start(text: &str) -> Progress {
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("local-stack: {spinner} {msg} ({elapsed})")
                .expect("the template is a constant and valid"),
        );
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        if bar.is_hidden() {
            note(text);
        }
        Progress { bar, last_line: std::time::Instant::now() }
    }

    pub(crate) fn update(&mut self, text: &str) {
        const BETWEEN_LINES: Duration = Duration::from_secs(3);
        if !self.bar.is_hidden() {
            self.bar.set_message(text.to_owned());
        } else if self.last_line.elapsed() > BETWEEN_LINES {
            self.last_line = std::time::Instant::now();
            note(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
