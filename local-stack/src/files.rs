//! Folders that a server under another account can use.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::error::{IoContext, StackError};
use crate::user::User;

/// Creates the folder, and lets others pass through it whatever the umask is: as root, PostgreSQL
/// runs under another account.
pub(crate) fn create_folder(path: &Path) -> Result<(), StackError> {
    fs::create_dir_all(path).doing("cannot create", path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).doing("cannot open up", path)
}

/// Copies a folder with its permissions; the copy belongs to `owner`.
pub(crate) fn copy_folder(from: &Path, to: &Path, owner: Option<User>) -> Result<(), StackError> {
    fs::create_dir_all(to).doing("cannot create", to)?;
    for entry in fs::read_dir(from).doing("cannot read", from)? {
        let entry = entry.doing("cannot read", from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().doing("cannot read", &source)?.is_dir() {
            copy_folder(&source, &target, owner)?;
        } else {
            fs::copy(&source, &target).doing("cannot copy to", &target)?;
            give(&target, owner)?;
        }
    }
    let permissions = fs::metadata(from).doing("cannot read", from)?.permissions();
    fs::set_permissions(to, permissions).doing("cannot set the permissions of", to)?;
    give(to, owner)
}

pub(crate) fn give(path: &Path, owner: Option<User>) -> Result<(), StackError> {
    let Some(user) = owner else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid)).doing("cannot change the owner of", path)
}

/// Removes a folder with all in it; one that isn't there is fine.
pub(crate) fn remove_folder(path: &Path) -> Result<(), StackError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing("cannot remove", path),
    }
}

/// Writes the whole file or nothing, also when the machine stops in between.
pub(crate) fn write_atomically(path: &Path, content: &str) -> Result<(), StackError> {
    let new = path.with_extension("new");
    fs::write(&new, content).doing("cannot write", &new)?;
    fs::rename(&new, path).doing("cannot write", path)
}

/// Whether an account that is neither owner nor group may pass through all folders above.
pub(crate) fn open_to_others(path: &Path) -> bool {
    path.ancestors()
        .filter_map(|folder| fs::metadata(folder).ok())
        .all(|folder| folder.mode() & 0o001 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_below_a_private_one_is_not_open_to_others() {
        let temp = tempfile::tempdir().unwrap();
        let inner = temp.path().join("private/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(temp.path().join("private"), Permissions::from_mode(0o700)).unwrap();
        assert!(open_to_others(temp.path()));
        assert!(!open_to_others(&inner));
        assert!(!open_to_others(&inner.join("not-yet-there")));
    }

    #[test]
    fn a_copied_folder_has_the_files_and_permissions_of_the_original() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        fs::create_dir_all(from.join("base/1")).unwrap();
        fs::write(from.join("base/1/table"), "rows").unwrap();
        fs::set_permissions(&from, Permissions::from_mode(0o700)).unwrap();
        copy_folder(&from, &to, None).unwrap();
        assert_eq!(fs::read_to_string(to.join("base/1/table")).unwrap(), "rows");
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o700);
    }
}
