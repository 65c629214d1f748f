//! One server of a stack in the background, stopped on purpose and started again: an outage.
//!
//! Nobody watches over such a stack: its watchdogs were called off when it was let go, so that a
//! server may be away for as long as one likes. A stack in the foreground has an owner, who would
//! end it.

use std::fs::File;

use crate::background::stop_in_order;
use crate::dist::Dist;
use crate::error::StackError;
use crate::home::Home;
use crate::kafka;
use crate::kind::Kind;
use crate::postgres::Postgres;
use crate::registry::{self, Place, Record};

/// Stops one server of the stack of that name in order; clients are broken off. Its data, settings
/// and address stay for [`start_server`].
pub fn stop_server(name: &str, kind: Kind) -> Result<(), StackError> {
    let home = Home::find()?;
    let _registry = registry::lock(&home)?;
    let held = Held::take(&home, name)?;
    match held.place.running(kind) {
        Some(pid) => stop_in_order(&held.place, kind, pid),
        None => Err(StackError::NotRunning { server: kind, name: name.to_owned() }),
    }
}

/// Starts one server of the stack of that name again and returns when it is ready, 1 to 4 s.
pub fn start_server(name: &str, kind: Kind) -> Result<(), StackError> {
    let home = Home::find()?;
    let dist = Dist::ensure(&home)?;
    let held = {
        let _registry = registry::lock(&home)?;
        let mut held = Held::take(&home, name)?;
        if held.place.running(kind).is_some() {
            return Err(StackError::AlreadyRunning { server: kind, name: name.to_owned() });
        }
        // For the while it takes: `down` asks the owner of a stack to end.
        held.record.owner_pid = std::process::id();
        held.record.detached = true;
        held.place.write(&held.record)?;
        held
    };
    let folder = held.place.server(kind);
    match kind {
        Kind::Kafka => {
            let kafka = kafka::prepared(&dist, &folder, held.record.kafka_port)?;
            kafka.start()?;
            kafka.let_go();
        }
        Kind::Postgres => {
            let postgres = Postgres::prepared(&dist, &folder, held.record.postgres_port)?;
            postgres.start()?;
            postgres.let_go();
        }
    }
    Ok(())
}

/// A stack that has no owner; we are it while this lives.
struct Held {
    place: Place,
    record: Record,
    _lock: File,
}

impl Held {
    fn take(home: &Home, name: &str) -> Result<Held, StackError> {
        let place = Place::of(home, name)?;
        let Some(record) = place.record() else {
            return Err(StackError::NotUp { name: name.to_owned() });
        };
        let Some(lock) = place.try_own()? else {
            return Err(StackError::HasOwner {
                name: name.to_owned(),
                owner_pid: record.owner_pid,
            });
        };
        Ok(Held { place, record, _lock: lock })
    }
}
