//! The servers' programs: downloaded once, then used offline.

mod class_archive;
mod maven;
mod templates;
mod unpack;

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, StackError};
use crate::files;
use crate::home::Home;
use crate::java::Java;
use crate::progress;

const POM: &str = include_str!("../pom.xml");
const LOG4J: &str = include_str!("../log4j2.yaml");
/// Raised when what is made from the download changes, so that an older folder is not used.
const LAYOUT: u32 = 1;

/// A complete set of programs, and a Java to run them.
#[derive(Debug)]
pub(crate) struct Dist {
    folder: PathBuf,
    java: Java,
}

impl Dist {
    /// Downloads and prepares what is missing. A second process that wants the same waits.
    pub(crate) fn ensure(home: &Home) -> Result<Dist, StackError> {
        let java = Java::find()?;
        let platform = maven::platform()?;
        let dist = Dist { folder: home.dist().join(folder_name(platform)), java };
        // The folder gets its name when it is complete, so its existence is the proof.
        if dist.folder.is_dir() && dist.class_archive_settled() {
            return Ok(dist);
        }
        files::create_folder(&home.dist())?;
        let lock = home.dist().join("lock");
        let held = File::create(&lock).doing("cannot create", &lock)?;
        if held.try_lock().is_err() {
            progress::note("another process downloads Kafka and PostgreSQL; waiting for it");
            held.lock().doing("cannot lock", &lock)?;
        }
        if !dist.folder.is_dir() {
            let unfinished = Dist { folder: home.dist().join("unfinished"), ..dist };
            unfinished.fill(platform)?;
            let folder = home.dist().join(folder_name(platform));
            fs::rename(&unfinished.folder, &folder).doing("cannot create", &folder)?;
            return Dist { folder, ..unfinished }.with_class_archive();
        }
        dist.with_class_archive()
    }

    fn fill(&self, platform: &str) -> Result<(), StackError> {
        files::remove_folder(&self.folder)?;
        files::create_folder(&self.folder)?;
        maven::download(&self.folder, platform, &self.libraries())?;
        unpack::postgres(&self.libraries(), &self.postgres())?;
        let log4j = self.log4j_settings();
        fs::write(&log4j, LOG4J).doing("cannot write", &log4j)?;
        templates::make(self)
    }

    /// The archive names its jars by path, so it is made when they are in their place.
    fn with_class_archive(self) -> Result<Dist, StackError> {
        if !self.class_archive_settled() {
            class_archive::make(&self)?;
        }
        Ok(self)
    }

    pub(crate) fn java(&self) -> &Java {
        &self.java
    }

    pub(crate) fn kafka_template(&self) -> PathBuf {
        self.folder.join("templates/kafka")
    }

    pub(crate) fn postgres_template(&self) -> PathBuf {
        self.folder.join("templates/postgres")
    }

    pub(crate) fn postgres_program(&self, name: &str) -> PathBuf {
        self.postgres().join("bin").join(name)
    }

    pub(crate) fn log4j_settings(&self) -> PathBuf {
        self.folder.join("log4j2.yaml")
    }

    /// Java's archive of Kafka's classes, ready to be mapped into memory: a third of the start's
    /// time. Java goes on without if it does not fit.
    pub(crate) fn class_archive_flags(&self) -> Vec<OsString> {
        let mut flag = OsString::from("-XX:SharedArchiveFile=");
        flag.push(self.class_archive());
        vec![flag, "-Xlog:cds=off".into(), "-Xlog:cds+dynamic=off".into()]
    }

    pub(crate) fn class_path(&self) -> Result<OsString, StackError> {
        let folder = self.libraries();
        let mut jars = Vec::new();
        for entry in fs::read_dir(&folder).doing("cannot read", &folder)? {
            jars.push(entry.doing("cannot read", &folder)?.path());
        }
        jars.sort();
        std::env::join_paths(jars)
            .map_err(std::io::Error::other)
            .doing("a Java class path cannot hold", &folder)
    }

    fn libraries(&self) -> PathBuf {
        self.folder.join("libs")
    }

    fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    fn class_archive(&self) -> PathBuf {
        // It fits the Java that made it only.
        self.folder.join(format!("kafka-java-{}.jsa", self.java.version))
    }

    /// Made, or tried in vain: it is not worth trying at every start.
    fn class_archive_settled(&self) -> bool {
        self.class_archive().exists() || self.no_class_archive().exists()
    }

    fn no_class_archive(&self) -> PathBuf {
        self.class_archive().with_extension("failed")
    }

    fn path(&self) -> &Path {
        &self.folder
    }
}

/// Other versions or another machine's programs (a shared folder) get a folder of their own.
fn folder_name(platform: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (POM, LOG4J, LAYOUT).hash(&mut hasher);
    format!("{platform}-{:016x}", hasher.finish())
}
