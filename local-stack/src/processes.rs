//! Processes by their number: signals, and whether a number still means the server it once meant.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::error::StackError;
use crate::kind::Kind;

/// Sends a signal. A process that is gone already is fine.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<(), StackError> {
    let Some(pid) = to_pid(pid) else { return Ok(()) };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(StackError::Io {
            doing: format!("cannot signal process {pid:?}"),
            source: error.into(),
        }),
    }
}

/// Whether the process runs and works on that folder. The number alone proves nothing: it may
/// have been given to another since.
pub(crate) fn works_on(pid: u32, folder: &Path) -> bool {
    let Some(process) = to_pid(pid) else { return false };
    let there = !matches!(test_kill_process(process), Err(rustix::io::Errno::SRCH));
    there && command_line(pid).is_some_and(|line| line.contains(&*folder.to_string_lossy()))
}

/// Stops a server that is not our child: at once, as what it leaves is recovered from or removed.
pub(crate) fn stop_stranger(kind: Kind, pid: u32, folder: &Path) -> Result<(), StackError> {
    const PATIENCE: Duration = Duration::from_secs(5);
    if !works_on(pid, folder) {
        return Ok(());
    }
    signal(pid, kind.signal_at_once())?;
    // One that is frozen takes no other signal.
    signal(pid, Signal::CONT)?;
    if gone_within(PATIENCE, pid, folder) {
        return Ok(());
    }
    signal(pid, Signal::KILL)?;
    gone_within(PATIENCE, pid, folder);
    Ok(())
}

/// Waits until the process is gone.
pub(crate) fn gone_within(patience: Duration, pid: u32, folder: &Path) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if !works_on(pid, folder) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// The processes that this one has started.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    parents().into_iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child).collect()
}

/// Every process, and who has started it.
#[cfg(target_os = "linux")]
fn parents() -> Vec<(u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may have anything in it: the state, then the parent.
        let (_, behind_name) = stat.rsplit_once(')')?;
        Some((pid, behind_name.split_whitespace().nth(1)?.parse().ok()?))
    })
    .collect()
}

#[cfg(not(target_os = "linux"))]
fn parents() -> Vec<(u32, u32)> {
    let output = std::process::Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let pairs = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    pairs
        .filter_map(|(pid, parent)| Some((pid.parse().ok()?, parent.trim().parse().ok()?)))
        .collect()
}

fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(target_os = "linux")]
fn command_line(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

#[cfg(not(target_os = "linux"))]
fn command_line(pid: u32) -> Option<String> {
    let output = std::process::Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_among_all_processes_and_a_stranger_is_not_taken_for_one() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let children = children_of(std::process::id());
        assert!(children.contains(&child.id()), "{children:?}");
        assert!(!children.contains(&std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_number_counts_only_with_the_folder_it_works_on() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo started; read wait; : /some/folder"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        // Its command line is not there at once.
        std::io::Read::read(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert!(works_on(pid, Path::new("/some/folder")));
        assert!(!works_on(pid, Path::new("/other/folder")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!works_on(pid, Path::new("/some/folder")));
        signal(pid, Signal::TERM).unwrap();
    }
}
