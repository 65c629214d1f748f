//! PostgreSQL's programs come as tar in xz in a jar, which is a zip.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::error::{IoContext, StackError};
use crate::files;
use crate::progress::Progress;

/// Moves the jar out of Java's class path and unpacks it.
pub(super) fn postgres(libraries: &Path, to: &Path) -> Result<(), StackError> {
    let _progress = Progress::start("unpacking PostgreSQL");
    let jar = find_jar(libraries)?;
    files::create_folder(to)?;
    let file = File::open(&jar).doing("cannot open", &jar)?;
    let mut jar_content =
        zip::ZipArchive::new(file).map_err(io::Error::other).doing("not a jar:", &jar)?;
    let name = jar_content
        .file_names()
        .flatten()
        .find(|name| name.ends_with(".txz"))
        .map(Cow::into_owned)
        .ok_or_else(|| io::Error::other("it holds no .txz file"))
        .doing("no PostgreSQL in", &jar)?;
    let packed =
        jar_content.by_name(&name).map_err(io::Error::other).doing("cannot unpack", &jar)?;
    let unpacked = lzma_rust2::XzReader::new(io::BufReader::new(packed), true);
    tar::Archive::new(unpacked).unpack(to).doing("cannot unpack", &jar)?;
    fs::remove_file(&jar).doing("cannot remove", &jar)
}

fn find_jar(libraries: &Path) -> Result<std::path::PathBuf, StackError> {
    for entry in fs::read_dir(libraries).doing("cannot read", libraries)? {
        let entry = entry.doing("cannot read", libraries)?;
        if entry.file_name().to_string_lossy().starts_with("embedded-postgres-binaries") {
            return Ok(entry.path());
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound)).doing("no PostgreSQL in", libraries)
}
