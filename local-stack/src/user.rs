//! Whom PostgreSQL runs as: it refuses root.

use std::fs;
use std::path::Path;

use crate::error::StackError;

/// An account to run a server as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The account for PostgreSQL: `None` is our own, unless we are root.
pub(crate) fn for_postgres() -> Result<Option<User>, StackError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    // initdb looks its own account up by name, so a number without an entry would not do.
    ["nobody", "postgres"]
        .iter()
        .find_map(|name| find(&passwd, name))
        .map(Some)
        .ok_or(StackError::NoUnprivilegedUser)
}

fn find(passwd: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let user = User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? };
    (user.uid != 0).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name_and_never_root() {
        let passwd =
            "nobody2:x:7:7::/:/bin/sh\nnobody:x:65534:65533:n:/:/x\npostgres:x:0:0::/:/x\n";
        assert_eq!(find(passwd, "nobody"), Some(User { uid: 65534, gid: 65533 }));
        assert_eq!(find(passwd, "postgres"), None);
        assert_eq!(find("", "nobody"), None);
    }
}
