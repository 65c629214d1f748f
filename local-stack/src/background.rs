//! Stacks that run without their owner: how they are, and their end.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;

use crate::error::StackError;
use crate::files;
use crate::home::Home;
use crate::kind::Kind;
use crate::postgres;
use crate::processes;
use crate::registry::{self, Place, Record};
use crate::server::STOPPED_WITHIN;
use crate::shared::Endpoints;

/// How a stack is.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The stack's name.
    pub name: String,
    /// `up` when both servers run, `down` when none does, else `broken`.
    pub state: State,
    /// Where they are, or were.
    #[serde(flatten)]
    pub endpoints: Endpoints,
    /// The broker's process.
    pub kafka_pid: Option<u32>,
    /// PostgreSQL's process.
    pub postgres_pid: Option<u32>,
    /// Data and logs.
    pub folder: std::path::PathBuf,
}

/// Whether the servers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Both.
    Up,
    /// One of them.
    Broken,
    /// None.
    Down,
}

/// How the stack of that name is; `None` if there never was one, or its data is gone.
pub fn status(name: &str) -> Result<Option<Status>, StackError> {
    let place = Place::of(&Home::find()?, name)?;
    let Some(record) = place.record() else { return Ok(None) };
    let (kafka_pid, postgres_pid) = (place.running(Kind::Kafka), place.running(Kind::Postgres));
    Ok(Some(Status {
        name: record.name,
        state: match (kafka_pid, postgres_pid) {
            (Some(_), Some(_)) => State::Up,
            (None, None) => State::Down,
            _ => State::Broken,
        },
        endpoints: Endpoints {
            bootstrap_servers: format!("127.0.0.1:{}", record.kafka_port),
            database_url: postgres::url(record.postgres_port),
        },
        kafka_pid,
        postgres_pid,
        folder: place.path().to_owned(),
    }))
}

/// Stops the stack of that name in order, and removes its data if asked to or if it was not to
/// be kept. The process of one in the foreground is asked to end (SIGTERM).
pub fn down(name: &str, remove_data: bool) -> Result<(), StackError> {
    let home = Home::find()?;
    let _registry = registry::lock(&home)?;
    let place = Place::of(&home, name)?;
    let Some(record) = place.record() else {
        return Err(StackError::NotUp { name: name.to_owned() });
    };
    let mut was_up = ask_owner_to_stop(&place, &record)?;
    for kind in [Kind::Kafka, Kind::Postgres] {
        if let Some(pid) = place.running(kind) {
            was_up = true;
            stop_in_order(&place, kind, pid)?;
        }
    }
    if remove_data || !record.keep_data {
        files::remove_folder(place.path())?;
    } else if !was_up {
        return Err(StackError::NotUp { name: name.to_owned() });
    }
    Ok(())
}

/// Stops a server that is not our child. What takes too long becomes a stop at once.
pub(crate) fn stop_in_order(place: &Place, kind: Kind, pid: u32) -> Result<(), StackError> {
    let folder = place.server(kind);
    processes::signal(pid, kind.signal_in_order())?;
    processes::signal(pid, Signal::CONT)?;
    if !processes::gone_within(STOPPED_WITHIN, pid, &folder) {
        processes::stop_stranger(kind, pid, &folder)?;
    }
    Ok(())
}

/// Whether there was an owner to ask. Returns when it is gone, or after a while.
fn ask_owner_to_stop(place: &Place, record: &Record) -> Result<bool, StackError> {
    // The servers' own time to stop, one after the other.
    let deadline = Instant::now() + 2 * STOPPED_WITHIN;
    if place.try_own()?.is_some() {
        return Ok(false);
    }
    processes::signal(record.owner_pid, Signal::TERM)?;
    while Instant::now() < deadline && place.path().exists() && place.try_own()?.is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}
