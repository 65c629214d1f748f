//! Lets a server die with the process that started it, however that one ends.
//!
//! A shell waits for the end of a pipe whose other end only we hold: the system closes it when we
//! are gone, also by SIGKILL. Linux could do this with `PR_SET_PDEATHSIG`, but that fires when
//! the *thread* which started the child ends (those of a test or of an async runtime end early),
//! is missing on macOS, and needs unsafe code.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::error::{IoContext, StackError};
use crate::kind::Kind;

/// While this lives, the end of our process ends the server. Dropping it calls it off.
#[derive(Debug)]
pub struct Watchdog(Child);

impl Watchdog {
    /// Over a child of ours that is no server: it ends by SIGKILL.
    pub fn over_child(pid: u32) -> Result<Watchdog, StackError> {
        Self::over(Kind::Kafka, pid)
    }

    pub(crate) fn over(kind: Kind, pid: u32) -> Result<Watchdog, StackError> {
        // A frozen server (SIGSTOP) takes the signal once it is continued. The shell ignores what
        // a terminal sends to all of its processes.
        const SCRIPT: &str = r#"trap "" HUP INT TERM; read _; kill -s $0 $1; kill -s CONT $1"#;
        let shell = std::path::Path::new("/bin/sh");
        let child = Command::new(shell)
            .args(["-c", SCRIPT, kind.signal_name_at_once(), &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .doing("cannot start", shell)?;
        Ok(Watchdog(child))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Killed before its pipe closes, so that it does not act. It can only have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
