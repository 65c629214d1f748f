//! PostgreSQL with the database `orders` of the superuser `orders`.

use std::fmt::Write as _;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::dist::Dist;
use crate::error::{IoContext, StackError};
use crate::files;
use crate::kind::Kind;
use crate::processes;
use crate::server::{Launch, Server};
use crate::user::{self, User};

/// Name of the superuser, its password, and the database.
pub(crate) const ORDERS: &str = "orders";

/// The PostgreSQL of a [`Stack`](crate::Stack): a [`Server`] whose state can be kept and set
/// back.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    data: PathBuf,
    user: Option<User>,
}

impl Postgres {
    /// Prepares the folder (data that is there stays) and returns the server, not yet started.
    pub(crate) fn prepare(
        dist: &Dist,
        folder: &Path,
        port: u16,
        settings: &[(String, String)],
    ) -> Result<Postgres, StackError> {
        let user = user::for_postgres()?;
        files::create_folder(folder)?;
        let data = folder.join("data");
        if !data.exists() {
            files::copy_folder(&dist.postgres_template(), &data, user)?;
        }
        let file = data.join("postgresql.conf");
        fs::write(&file, settings_file(port, settings)).doing("cannot write", &file)?;
        files::give(&file, user)?;
        Self::prepared(dist, folder, port)
    }

    /// The server of a folder that was prepared before, with the settings it has there.
    pub(crate) fn prepared(dist: &Dist, folder: &Path, port: u16) -> Result<Postgres, StackError> {
        let user = user::for_postgres()?;
        let data = folder.join("data");
        let server = Server::new(Launch {
            kind: Kind::Postgres,
            program: dist.postgres_program("postgres"),
            arguments: vec!["-D".into(), data.clone().into()],
            environment: vec![("LC_ALL", "C".into())],
            user,
            folder: folder.to_owned(),
            port,
            is_ready,
        });
        Ok(Postgres { server, data, user })
    }

    /// Ends the server and all of its backends by SIGKILL, as a power failure would: a statement that
    /// one is in does not finish.
    pub fn kill_with_backends(&self) -> Result<(), StackError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // Frozen, it starts no more of them.
        self.pause()?;
        for backend in processes::children_of(pid) {
            processes::signal(backend, Signal::KILL)?;
        }
        self.kill();
        Ok(())
    }

    /// Keeps the state of all databases in a new folder. PostgreSQL is stopped meanwhile and
    /// started again after.
    pub fn snapshot(&self, folder: &Path) -> Result<(), StackError> {
        self.terminate()?;
        files::remove_folder(folder)?;
        files::copy_folder(&self.data, folder, self.user)?;
        self.start()
    }

    /// Sets all databases back to the state kept by [`snapshot`](Postgres::snapshot), as a
    /// restored backup does. PostgreSQL is stopped meanwhile and started again after.
    pub fn restore(&self, folder: &Path) -> Result<(), StackError> {
        self.terminate()?;
        files::remove_folder(&self.data)?;
        files::copy_folder(folder, &self.data, self.user)?;
        self.start()
    }
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

pub(crate) fn url(port: u16) -> String {
    format!("postgres://{ORDERS}:{ORDERS}@127.0.0.1:{port}/{ORDERS}")
}

/// PostgreSQL writes its state to the eighth line of its lock file, its number to the first: a
/// file that a killed one left says `ready` too.
fn is_ready(folder: &Path, _log_from: u64, pid: u32) -> bool {
    let file = folder.join("data/postmaster.pid");
    fs::read_to_string(file).is_ok_and(|text| lock_file_says_ready(&text, pid))
}

fn lock_file_says_ready(text: &str, pid: u32) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.next() == Some(&pid.to_string()) && lines.nth(6) == Some("ready")
}

fn settings_file(port: u16, settings: &[(String, String)]) -> String {
    let mut text = format!(
        "listen_addresses = '127.0.0.1'
port = {port}
# By TCP only: a socket's path may be too long below target/.
unix_socket_directories = ''
max_connections = 200
shared_buffers = 128MB
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
"
    );
    for (name, value) in settings {
        // Of two lines for one name the last one counts.
        writeln!(text, "{name} = '{}'", value.replace('\'', "''"))
            .expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_read_from_the_lock_file_of_this_very_process() {
        let text = "321\n/data\n1795459200\n20001\n\n127.0.0.1\n  123 4\nready   \n";
        assert!(lock_file_says_ready(text, 321));
        assert!(!lock_file_says_ready(text, 322));
        assert!(!lock_file_says_ready(&text.replace("ready   ", "starting"), 321));
        assert!(!lock_file_says_ready("", 321));
    }

    #[test]
    fn settings_given_by_the_caller_come_last_and_are_quoted() {
        let own = [("search_path".to_owned(), "it's".to_owned())];
        assert!(settings_file(5432, &own).ends_with("search_path = 'it''s'\n"));
    }
}
