//! The download.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::POM;
use crate::error::{IoContext, StackError};
use crate::java;
use crate::progress::Progress;

/// The end of the artifact's name of PostgreSQL's programs.
pub(super) fn platform() -> Result<&'static str, StackError> {
    let musl = Path::new("/etc/alpine-release").exists();
    match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") if musl => Ok("linux-amd64-alpine"),
        ("linux", "aarch64") if musl => Ok("linux-arm64v8-alpine"),
        ("linux", "x86_64") => Ok("linux-amd64"),
        ("linux", "aarch64") => Ok("linux-arm64v8"),
        ("macos", "x86_64") => Ok("darwin-amd64"),
        ("macos", "aarch64") => Ok("darwin-arm64v8"),
        (os, arch) => Err(StackError::UnsupportedPlatform { os, arch }),
    }
}

/// Downloads all jars into `libraries`. Maven's whole output goes to a file beside it.
pub(super) fn download(folder: &Path, platform: &str, libraries: &Path) -> Result<(), StackError> {
    let mvn =
        java::in_path("mvn", env::var_os("PATH").as_deref()).ok_or(StackError::MavenMissing)?;
    let pom = folder.join("pom.xml");
    fs::write(&pom, POM).doing("cannot write", &pom)?;
    // Outside of the folder, which is removed at the next try.
    let log_path = folder.with_file_name("maven.log");
    let mut log = File::create(&log_path).doing("cannot create", &log_path)?;
    let errors = log.try_clone().doing("cannot open", &log_path)?;

    let mut child = Command::new(&mvn)
        .arg("--batch-mode")
        .arg("--file")
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", libraries.display()))
        .arg(format!("-Dpostgres.platform={platform}"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .doing("cannot start", &mvn)?;
    let output = child.stdout.take().expect("the output was asked for as a pipe");

    let mut progress = Progress::start("downloading Kafka and PostgreSQL, once (about 100 MB)");
    let mut downloaded = Downloaded::default();
    let mut complaints = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.doing("cannot read from", &mvn)?;
        writeln!(log, "{line}").doing("cannot write", &log_path)?;
        if downloaded.read(&line) {
            progress.update(&downloaded.to_string());
        }
        if let Some(complaint) = line.strip_prefix("[ERROR] ") {
            complaints.push(complaint.to_owned());
        }
    }
    drop(progress);
    let status = child.wait().doing("cannot wait for", &mvn)?;
    if !status.success() {
        // The rest is advice on Maven's own switches.
        complaints.truncate(3);
        return Err(StackError::DownloadFailed { log: log_path, detail: complaints.join("\n") });
    }
    Ok(())
}

/// Sums up lines such as `[INFO] Downloaded from central: …/a-1.jar (35 kB at 1.2 MB/s)`.
#[derive(Debug, Default)]
struct Downloaded {
    files: u32,
    kilobytes: f64,
    last: String,
}

impl Downloaded {
    /// Whether the line was such a one.
    fn read(&mut self, line: &str) -> bool {
        let Some((_, rest)) = line.split_once("Downloaded from ") else { return false };
        let Some((address, size)) = rest.rsplit_once(" (") else { return false };
        let mut words = size.split(' ');
        let number: f64 = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        self.kilobytes += match words.next() {
            Some("MB") => number * 1000.0,
            Some("kB") => number,
            _ => number / 1000.0,
        };
        self.files += 1;
        address.rsplit('/').next().unwrap_or_default().clone_into(&mut self.last);
        true
    }
}

impl std::fmt::Display for Downloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Downloaded { files, kilobytes, last } = self;
        write!(f, "downloading: {files} files, {:.1} MB, {last}", kilobytes / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mavens_lines_are_summed_up_to_files_and_megabytes() {
        let mut downloaded = Downloaded::default();
        assert!(
            downloaded.read("[INFO] Downloaded from central: x://y/z/a-1.pom (500 B at 2 kB/s)")
        );
        assert!(
            downloaded.read("[INFO] Downloaded from central: x://y/b-1.jar (1.5 MB at 2 MB/s)")
        );
        assert!(downloaded.read("[INFO] Downloaded from own: x://y/c-1.jar (98 kB at 2 kB/s)"));
        assert!(!downloaded.read("[INFO] Downloading from central: x://y/d-1.jar"));
        assert_eq!(downloaded.to_string(), "downloading: 3 files, 1.6 MB, c-1.jar");
    }
}
