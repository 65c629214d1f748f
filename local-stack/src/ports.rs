//! Ports on 127.0.0.1.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use crate::error::StackError;
use crate::kind::Kind;

/// Below the range that Linux and macOS give to outgoing connections: a client that keeps
/// connecting to a stopped server would otherwise now and then be given that very port, connect
/// to itself, and keep the server from coming back.
const CHOICE: Range<u16> = 20_000..30_000;

/// A free port that no other stack was promised.
pub(crate) fn choose(taken: &mut BTreeSet<u16>) -> Result<u16, StackError> {
    // Where to begin is spread by process, so that those who don't see each other's promises
    // (two homes on one machine) rarely meet.
    let spread = std::process::id().wrapping_mul(97) % u32::from(CHOICE.end - CHOICE.start);
    let first = CHOICE.start + u16::try_from(spread).unwrap_or_default();
    let port = (first..CHOICE.end)
        .chain(CHOICE.start..first)
        .find(|port| !taken.contains(port) && TcpListener::bind(address(*port)).is_ok())
        .ok_or_else(|| StackError::Io {
            doing: format!("no free port between {} and {}", CHOICE.start, CHOICE.end),
            source: io::ErrorKind::AddrInUse.into(),
        })?;
    taken.insert(port);
    Ok(port)
}

/// Refuses a port that something else listens on.
pub(crate) fn check_free(server: Kind, port: u16) -> Result<(), StackError> {
    match TcpListener::bind(address(port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(StackError::PortBusy { server, port })
        }
        Err(source) => {
            Err(StackError::Io { doing: format!("cannot listen on 127.0.0.1:{port}"), source })
        }
    }
}

fn address(port: u16) -> (Ipv4Addr, u16) {
    (Ipv4Addr::LOCALHOST, port)
}

pub(crate) fn busy_message(server: Kind, port: u16) -> String {
    let ask = if cfg!(target_os = "linux") {
        format!("ss -ltnp 'sport = :{port}'")
    } else {
        format!("lsof -nP -iTCP:{port} -sTCP:LISTEN")
    };
    let flag = server.port_flag();
    format!(
        "{server} cannot have port {port}: something else listens on 127.0.0.1:{port}.\n\
         `{ask}` says who. Stop that one (perhaps `cargo stack down` or `docker compose down`), \
         or choose another port with `cargo stack up {flag} PORT`; `{flag} 0` takes any free one."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_refused_with_the_flag_that_chooses_another() {
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        let message = check_free(Kind::Kafka, port).unwrap_err().to_string();
        assert!(message.contains(&format!("127.0.0.1:{port}")), "{message}");
        assert!(message.contains("--kafka-port"), "{message}");
        let message = check_free(Kind::Postgres, port).unwrap_err().to_string();
        assert!(message.contains("--postgres-port"), "{message}");
        drop(other);
        check_free(Kind::Kafka, port).unwrap();
    }

    #[test]
    fn chosen_ports_differ_and_stay_below_those_of_outgoing_connections() {
        let mut taken = BTreeSet::new();
        let first = choose(&mut taken).unwrap();
        let second = choose(&mut taken).unwrap();
        assert_ne!(first, second);
        assert!(CHOICE.contains(&first) && CHOICE.contains(&second));
        assert_eq!(taken, BTreeSet::from([first, second]));
    }
}
