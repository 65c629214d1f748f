//! `TCP_NODELAY` for connections to PostgreSQL, which sqlx 0.9.0 leaves off
//! (<https://github.com/transact-rs/sqlx/issues/4335>, mended there behind that version). Without it
//! the end of a COPY waits until the server has acknowledged the data before, which it delays by up
//! to 40 ms. To be removed with the first sqlx that sets it.
//!
//! sqlx tells nobody which socket a connection has, so this asks the process for its sockets, and
//! sets the option on each whose peer has the database's port.

use sqlx::postgres::PgConnectOptions;

/// Sets `TCP_NODELAY` on the connections that this process has to a database. Elsewhere than on
/// Linux it does nothing.
pub fn set_on_connections(options: &PgConnectOptions) {
    #[cfg(target_os = "linux")]
    linux::set_on_connections(options.get_port());
    #[cfg(not(target_os = "linux"))]
    let _ = options;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::ManuallyDrop;
    use std::net::TcpStream;
    use std::os::fd::{FromRawFd, RawFd};

    pub(super) fn set_on_connections(port: u16) {
        let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return };
        for descriptor in descriptors.flatten() {
            let Some(number) = descriptor.file_name().to_str().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let is_socket = std::fs::read_link(descriptor.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
            if is_socket {
                set_if_connected_to(number, port);
            }
        }
    }

    #[expect(unsafe_code, reason = "nothing else turns a number into a socket")]
    fn set_if_connected_to(number: RawFd, port: u16) {
        // SAFETY: it is never closed here. Whoever has it may close it meanwhile: then the two calls
        // below fail, or meet what another thread has just opened under the number, and they change
        // nothing but this option of a TCP connection to the port.
        let stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(number) });
        if stream.peer_addr().is_ok_and(|peer| peer.port() == port) {
            // Without it COPY is slower, and that is all.
            let _ = stream.set_nodelay(true);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::net::TcpListener;

        #[test]
        fn connections_to_the_port_have_it_and_others_keep_what_they_had() {
            let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
            let [database, other] = [listen(), listen()];
            let connect = |to: &TcpListener| TcpStream::connect(to.local_addr().unwrap()).unwrap();
            let (to_database, to_other) = (connect(&database), connect(&other));
            set_on_connections(database.local_addr().unwrap().port());
            assert!(to_database.nodelay().unwrap());
            assert!(!to_other.nodelay().unwrap());
        }
    }
}
