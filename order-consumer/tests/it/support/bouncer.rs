//! PgBouncer before the database.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::poll::eventually;
use super::{Place, unique};

/// A running PgBouncer. Killed when dropped.
pub(crate) struct Bouncer {
    child: Child,
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Bouncer {
    /// `None`, with a word on it, where there is no `pgbouncer`.
    pub(crate) fn start(place: &Place, pool_mode: &str) -> Option<Self> {
        let known = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
        let Some(program) = known.iter().find(|path| fs::exists(path).unwrap_or(false)) else {
            eprintln!("skipped: there is no pgbouncer (Debian: apt-get install pgbouncer)");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Not below target/, where its user may not look.
        let folder = std::env::temp_dir().join(unique("bouncer"));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let (_, address) = place.stack.database_url.split_once('@').unwrap();
        let (_, server_port) = address.split_once('/').unwrap().0.split_once(':').unwrap();
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
ignore_startup_parameters = extra_float_digits
"
            ),
        )
        .unwrap();
        let mut command = Command::new(program);
        if rustix::process::getuid().is_root() {
            // It refuses to be root.
            command.args(["-u", "nobody"]);
        }
        command.arg(&settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        eventually("pgbouncer listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(Self { child, folder, port })
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
