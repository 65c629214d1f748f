//! Which stacks there are on this machine, and what became of those that nobody stopped.
//!
//! A stack's folder holds a lock file, which its owner keeps locked while it lives, and
//! `stack.json`. The system unlocks when the owner dies, however it does; so a free lock means
//! that nobody looks after the stack, and its record says whether that is on purpose.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{IoContext, StackError};
use crate::files;
use crate::home::Home;
use crate::kind::Kind;
use crate::options::Options;
use crate::ports;
use crate::processes;
use crate::progress;
use crate::server::recorded_pid;

/// `stack.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) owner_pid: u32,
    /// It goes on without its owner.
    pub(crate) detached: bool,
    pub(crate) keep_data: bool,
    pub(crate) kafka_port: u16,
    pub(crate) controller_port: u16,
    pub(crate) postgres_port: u16,
}

/// A stack's folder.
#[derive(Debug, Clone)]
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn of(home: &Home, name: &str) -> Result<Place, StackError> {
        check_name(name)?;
        Ok(Place(home.stacks().join(name)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn server(&self, kind: Kind) -> PathBuf {
        self.0.join(kind.word())
    }

    /// The server's process, if it runs.
    pub(crate) fn running(&self, kind: Kind) -> Option<u32> {
        let folder = self.server(kind);
        recorded_pid(&folder).filter(|pid| processes::works_on(*pid, &folder))
    }

    pub(crate) fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.0.join("stack.json")).ok()?).ok()
    }

    pub(crate) fn write(&self, record: &Record) -> Result<(), StackError> {
        let text = serde_json::to_string_pretty(record)
            .expect("numbers and a string can always be written as JSON");
        files::write_atomically(&self.0.join("stack.json"), &text)
    }

    /// Stops the servers of an owner that is gone.
    pub(crate) fn stop_strangers(&self) -> Result<(), StackError> {
        for kind in [Kind::Kafka, Kind::Postgres] {
            if let Some(pid) = self.running(kind) {
                processes::stop_stranger(kind, pid, &self.server(kind))?;
            }
        }
        Ok(())
    }

    fn any_running(&self) -> bool {
        [Kind::Kafka, Kind::Postgres].iter().any(|kind| self.running(*kind).is_some())
    }

    fn all_running(&self) -> bool {
        [Kind::Kafka, Kind::Postgres].iter().all(|kind| self.running(*kind).is_some())
    }

    /// The owner's lock; `None` while somebody else has it.
    pub(crate) fn try_own(&self) -> Result<Option<File>, StackError> {
        let path = self.0.join("lock");
        let lock = File::create(&path).doing("cannot create", &path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).doing("cannot lock", &path),
        }
    }
}

/// Refuses a name that could not be a folder's: 1 to 60 letters, digits, `-` and `_` can.
pub fn check_name(name: &str) -> Result<(), StackError> {
    const LONGEST: usize = 60;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(plain) {
        return Err(StackError::BadName { name: name.to_owned() });
    }
    Ok(())
}

/// A name that is ours while this lives.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) place: Place,
    pub(crate) record: Record,
    _lock: File,
}

/// Cleans up after those who are gone, and takes the name.
pub(crate) fn claim(home: &Home, options: &Options) -> Result<Claim, StackError> {
    let _registry = lock(home)?;
    let place = Place::of(home, &options.name)?;
    let mut taken = sweep(home, &options.name)?;

    files::create_folder(place.path())?;
    let Some(owner_lock) = place.try_own()? else {
        let owner = place.record().map_or_else(String::new, |r| format!(" {}", r.owner_pid));
        return Err(already_up(options, format!("run by process{owner}")));
    };
    if let Some(old) = place.record() {
        if old.detached && place.all_running() {
            return Err(already_up(options, "in the background".to_owned()));
        }
        if place.any_running() {
            progress::note(&format!("stopping what is left of the stack `{}`", old.name));
            place.stop_strangers()?;
        }
    }
    let record = Record {
        name: options.name.clone(),
        owner_pid: std::process::id(),
        detached: false,
        keep_data: options.keep_data,
        kafka_port: port(Kind::Kafka, options.kafka_port, &mut taken)?,
        controller_port: ports::choose(&mut taken)?,
        postgres_port: port(Kind::Postgres, options.postgres_port, &mut taken)?,
    };
    place.write(&record)?;
    Ok(Claim { place, record, _lock: owner_lock })
}

/// Keeps others from starting or sweeping. Held for moments.
pub(crate) fn lock(home: &Home) -> Result<File, StackError> {
    files::create_folder(&home.stacks())?;
    let path = home.stacks().join(".lock");
    let lock = File::create(&path).doing("cannot create", &path)?;
    lock.lock().doing("cannot lock", &path)?;
    Ok(lock)
}

/// Stops and removes what killed owners left, but for the stack of that name. Returns the ports
/// of those that live.
fn sweep(home: &Home, except: &str) -> Result<BTreeSet<u16>, StackError> {
    let mut taken = BTreeSet::new();
    let folder = home.stacks();
    for entry in fs::read_dir(&folder).doing("cannot read", &folder)? {
        let place = Place(entry.doing("cannot read", &folder)?.path());
        if !place.path().is_dir() || place.path().file_name().is_some_and(|name| name == except) {
            continue;
        }
        let record = place.record();
        let on_purpose = record.as_ref().is_some_and(|r| r.detached) && place.any_running();
        if on_purpose || place.try_own()?.is_none() {
            taken.extend(record.iter().flat_map(ports_of));
            continue;
        }
        place.stop_strangers()?;
        if !record.is_some_and(|record| record.keep_data) {
            files::remove_folder(place.path())?;
        }
    }
    Ok(taken)
}

fn ports_of(record: &Record) -> [u16; 3] {
    [record.kafka_port, record.controller_port, record.postgres_port]
}

fn port(kind: Kind, wanted: Option<u16>, taken: &mut BTreeSet<u16>) -> Result<u16, StackError> {
    let Some(port) = wanted else { return ports::choose(taken) };
    ports::check_free(kind, port)?;
    taken.insert(port);
    Ok(port)
}

fn already_up(options: &Options, by: String) -> StackError {
    StackError::AlreadyUp { name: options.name.clone(), by }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_leave_the_folder_is_refused() {
        assert!(check_name("my-stack_2").is_ok());
        for bad in ["", "..", "a/b", ".lock", &"x".repeat(61)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
