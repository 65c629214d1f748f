//! PgBouncer before the database, where it is installed.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::shared::Endpoints;

const PATIENCE: Duration = Duration::from_secs(30);

/// A running PgBouncer. Killed when dropped.
pub struct Bouncer {
    child: Child,
    folder: PathBuf,
    /// On 127.0.0.1.
    pub port: u16,
}

impl Bouncer {
    /// Starts one in this `pool_mode`; `None`, with a word on it, where there is no `pgbouncer`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(servers: &Endpoints, pool_mode: &str) -> anyhow::Result<Option<Self>> {
        let known = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
        let Some(program) = known.iter().find(|path| fs::exists(path).unwrap_or(false)) else {
            eprintln!("skipped: there is no pgbouncer (Debian: apt-get install pgbouncer)");
            return Ok(None);
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Not below target/, where its user may not look.
        let folder = std::env::temp_dir().join(format!("bouncer-{}-{port}", std::process::id()));
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        let server = address_of(&servers.database_url)?;
        let server_port = server.rsplit(':').next().context("a database's URL names its port")?;
        let settings = folder.join("pgbouncer.ini");
        fs::write(
            &settings,
            format!(
                "[databases]
* = host=127.0.0.1 port={server_port} user=orders password=orders
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
default_pool_size = 40
max_client_conn = 200
ignore_startup_parameters = extra_float_digits, options
"
            ),
        )?;
        let mut command = Command::new(program);
        if rustix::process::getuid().is_root() {
            // It refuses to be root.
            command.args(["-u", "nobody"]);
        }
        command.arg(&settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let bouncer = Self { child: command.spawn()?, folder, port };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                bail!("pgbouncer does not listen within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(Some(bouncer))
    }

    /// The URL of a database by way of this.
    ///
    /// # Errors
    /// It is no URL of a database with its user.
    pub fn through(&self, database_url: &str) -> anyhow::Result<String> {
        let (address, own) = (address_of(database_url)?, format!("127.0.0.1:{}", self.port));
        Ok(database_url.replacen(&format!("@{address}/"), &format!("@{own}/"), 1))
    }
}

/// `host:port` of a database's URL.
fn address_of(database_url: &str) -> anyhow::Result<&str> {
    let address = database_url.split('/').nth(2).and_then(|place| place.rsplit('@').next());
    address.context("a database's URL is postgres://user:password@host:port/database")
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
