//! The servers' log files.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// The log of the server with that folder.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("server.log")
}

pub(crate) fn length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// What was written after the first `from` bytes. A log that cannot be read is empty: it is only
/// ever shown, or searched for a line that will be there later.
pub(crate) fn since(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last lines written after the first `from` bytes, for an error message.
pub(crate) fn tail(log: &Path, from: u64) -> String {
    const LINES: usize = 15;
    let text = since(log, from);
    let telling: Vec<_> = text.lines().filter(|line| is_telling(line)).collect();
    telling[telling.len().saturating_sub(LINES)..].join("\n")
}

/// Java's stack frames and Kafka's list of hundreds of settings push out the line with the cause.
fn is_telling(line: &str) -> bool {
    let setting = line.starts_with('\t') && (line.contains(" = ") || line.ends_with(" ="));
    !(line.trim().is_empty() || line.trim_start().starts_with("at ") || setting)
}

pub(crate) fn says_port_busy(text: &str) -> bool {
    ["Address already in use", "could not create any TCP/IP sockets"]
        .iter()
        .any(|sentence| text.contains(sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_shows_the_cause_and_neither_stack_frames_nor_settings_nor_an_earlier_start() {
        let temp = tempfile::tempdir().unwrap();
        let log = path(temp.path());
        fs::write(&log, "the start before\n").unwrap();
        let from = length(&log);
        let now = "\tnode.id = 1\n\tlog.dir =\nERROR bad setting\n\tat kafka.Kafka.main(Kafka)\n\n";
        fs::write(&log, format!("the start before\n{now}")).unwrap();
        assert_eq!(tail(&log, from), "ERROR bad setting");
        assert_eq!(tail(&temp.path().join("none"), 0), "");
    }

    #[test]
    fn both_servers_words_for_a_busy_port_are_known() {
        assert!(says_port_busy("java.net.BindException: Address already in use"));
        assert!(says_port_busy("FATAL:  could not create any TCP/IP sockets"));
        assert!(!says_port_busy("FATAL:  lock file exists"));
    }
}
