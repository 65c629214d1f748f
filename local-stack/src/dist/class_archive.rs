//! Java's archive of loaded classes, made by one run of a broker.

use std::ffi::OsString;
use std::fs;

use super::Dist;
use crate::error::{IoContext, StackError};
use crate::files;
use crate::kafka;
use crate::ports;
use crate::progress::{self, Progress};

/// Makes the archive, or notes that it cannot be made: the stack works without, slower.
pub(super) fn make(dist: &Dist) -> Result<(), StackError> {
    let progress = Progress::start("running Kafka once, so that later starts are fast");
    let made = run_broker(dist);
    drop(progress);
    if let Err(error) = made {
        progress::note(&format!("later starts will be slower: {error}"));
        let marker = dist.no_class_archive();
        fs::write(&marker, error.to_string()).doing("cannot write", &marker)?;
    }
    Ok(())
}

fn run_broker(dist: &Dist) -> Result<(), StackError> {
    let folder = dist.path().join("first-run");
    files::remove_folder(&folder)?;
    let archive = folder.join("kafka.jsa");
    let mut taken = std::collections::BTreeSet::new();
    let setup = kafka::Setup {
        folder: folder.clone(),
        port: ports::choose(&mut taken)?,
        controller_port: ports::choose(&mut taken)?,
        properties: &[],
        listeners: &[],
    };
    let mut flag = OsString::from("-XX:ArchiveClassesAtExit=");
    flag.push(&archive);
    let broker = kafka::prepare_with(dist, &setup, &[flag])?;
    broker.start()?;
    broker.terminate()?;
    fs::rename(&archive, dist.class_archive()).doing("Java wrote no", &archive)?;
    files::remove_folder(&folder)
}
