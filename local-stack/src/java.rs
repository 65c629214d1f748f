//! Finds a Java that Kafka can run on.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::StackError;

/// The oldest version that brokers of Kafka 4 run on.
pub(crate) const OLDEST: u32 = 17;

/// A Java that is new enough.
#[derive(Debug, Clone)]
pub(crate) struct Java {
    pub(crate) path: PathBuf,
    /// As it calls itself, such as `17.0.15`.
    pub(crate) version: String,
}

impl Java {
    /// `JAVA_HOME` goes before `PATH`, as in Kafka's and Maven's own scripts.
    pub(crate) fn find() -> Result<Java, StackError> {
        let of_home = env::var_os("JAVA_HOME")
            .map(|home| Path::new(&home).join("bin/java"))
            .filter(|java| java.is_file());
        let path = of_home
            .or_else(|| in_path("java", env::var_os("PATH").as_deref()))
            .ok_or(StackError::JavaMissing)?;
        // Reading the file spares starting a virtual machine, a tenth of a second.
        let version = version_by_release_file(&path)
            .or_else(|| version_by_asking(&path))
            .ok_or(StackError::JavaMissing)?;
        match major(&version) {
            Some(major) if major >= OLDEST => Ok(Java { path, version }),
            _ => Err(StackError::JavaTooOld { path, version }),
        }
    }
}

/// The first file of that name in the folders of `path_variable`.
pub(crate) fn in_path(program: &str, path_variable: Option<&OsStr>) -> Option<PathBuf> {
    env::split_paths(path_variable?).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn version_by_release_file(java: &Path) -> Option<String> {
    let home = fs::canonicalize(java).ok()?.parent()?.parent()?.to_owned();
    quoted_after("JAVA_VERSION=", &fs::read_to_string(home.join("release")).ok()?)
}

fn version_by_asking(java: &Path) -> Option<String> {
    let output = Command::new(java).arg("-version").output().ok()?;
    quoted_after("version ", &String::from_utf8_lossy(&output.stderr))
}

/// The text in quotes that follows, in `openjdk version "17.0.15" 2025-04-15`.
fn quoted_after(marker: &str, text: &str) -> Option<String> {
    let rest = text.split_once(marker)?.1.strip_prefix('"')?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// 17 of `17.0.15`, 21 of `21-ea`, 8 of `1.8.0_292`.
fn major(version: &str) -> Option<u32> {
    let mut numbers = version.split(['.', '-', '_', '+']);
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_in_the_old_and_the_new_scheme() {
        assert_eq!(major("17.0.15"), Some(17));
        assert_eq!(major("21-ea"), Some(21));
        assert_eq!(major("25"), Some(25));
        assert_eq!(major("1.8.0_292"), Some(8));
        assert_eq!(major("unknown"), None);
    }

    #[test]
    fn the_version_is_read_from_what_java_says_and_from_its_release_file() {
        let said = "openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime Environment\n";
        assert_eq!(quoted_after("version ", said).as_deref(), Some("17.0.15"));
        let release = "IMPLEMENTOR=\"Debian\"\nJAVA_VERSION=\"21.0.1\"\n";
        assert_eq!(quoted_after("JAVA_VERSION=", release).as_deref(), Some("21.0.1"));
        assert_eq!(quoted_after("version ", "no runtime present"), None);
    }

    #[test]
    fn a_program_is_found_in_the_first_folder_that_has_it() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        fs::create_dir_all(&one).unwrap();
        fs::create_dir_all(&two).unwrap();
        fs::write(two.join("mvn"), "").unwrap();
        let path = env::join_paths([&one, &two]).unwrap();
        assert_eq!(in_path("mvn", Some(&path)), Some(two.join("mvn")));
        assert_eq!(in_path("java", Some(&path)), None);
        assert_eq!(in_path("java", None), None);
    }
}
