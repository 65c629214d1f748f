//! The proxy of `faults`, before PostgreSQL.

use faults::frames::Protocol;
pub(crate) use faults::proxy::{Cut, Harm, Proxy};

use super::poll::wait;

/// Before the server of that URL.
pub(crate) fn before(database_url: &str) -> Proxy {
    let address = database_url.split('@').nth(1).unwrap().split('/').next().unwrap();
    let port = address.rsplit(':').next().unwrap().parse().unwrap();
    wait(async { Proxy::listen().await.unwrap().pass_to(port, Protocol::Postgres) })
}
