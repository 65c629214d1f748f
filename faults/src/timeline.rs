//! What happened when, for people: on stdout if wanted, and in a file.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The account of one plan.
pub struct Timeline {
    begun: Instant,
    shown: bool,
    file: Mutex<std::fs::File>,
}

impl Timeline {
    /// Begins now.
    pub fn begin(file: &Path, shown: bool) -> std::io::Result<Self> {
        let file = Mutex::new(std::fs::File::create(file)?);
        Ok(Self { begun: Instant::now(), shown, file })
    }

    /// Notes something.
    pub fn note(&self, text: impl std::fmt::Display) {
        let line = format!("{:6.2} s  {text}", self.begun.elapsed().as_secs_f64());
        if self.shown {
            println!("{line}");
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // The account is for people; a full disk here changes no verdict.
        let _ = writeln!(file, "{line}");
    }
}
