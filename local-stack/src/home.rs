//! Where everything lives: below `target/` of the workspace.

use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::{IoContext as _, StackError};
use crate::files;
use crate::progress;

/// The folder with the downloaded servers and the stacks' data.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// `LOCAL_STACK_HOME`, else `local-stack` in cargo's target folder, created if need be.
    ///
    /// As root, PostgreSQL runs under another account. Where that account cannot reach the target
    /// folder (a clone in root's own home), a folder of the system's temporary one is used.
    pub(crate) fn find() -> Result<Home, StackError> {
        let chosen = match env::var_os("LOCAL_STACK_HOME") {
            Some(path) => std::path::absolute(&path)
                .map_err(|source| StackError::Io { doing: "LOCAL_STACK_HOME".into(), source })?,
            None => by_default(),
        };
        files::create_folder(&chosen)?;
        // In a temporary folder anyone may have made it before, with programs for us to run.
        let owner = std::fs::metadata(&chosen).doing("cannot read", &chosen)?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(StackError::ForeignFolder(chosen));
        }
        if is_reachable(&chosen) { Ok(Home(chosen)) } else { Err(StackError::Unreachable(chosen)) }
    }

    pub(crate) fn dist(&self) -> PathBuf {
        self.0.join("dist")
    }

    pub(crate) fn stacks(&self) -> PathBuf {
        self.0.join("stacks")
    }
}

fn target_folder() -> PathBuf {
    if let Some(path) = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from)
        && path.is_absolute()
    {
        return path;
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    match workspace.filter(|folder| folder.is_dir()) {
        Some(folder) => folder.join("target"),
        // The binary was copied to another machine.
        None => env::temp_dir(),
    }
}

fn by_default() -> PathBuf {
    let home = target_folder().join("local-stack");
    if is_reachable(&home) {
        return home;
    }
    let elsewhere = env::temp_dir().join("local-stack-root");
    progress::note(&format!(
        "as root, PostgreSQL runs under another account, which cannot reach {}; using {} \
         (LOCAL_STACK_HOME chooses another place)",
        home.display(),
        elsewhere.display()
    ));
    elsewhere
}

fn is_reachable(home: &Path) -> bool {
    !rustix::process::geteuid().is_root() || files::open_to_others(home)
}
