//! Hot restart of the Ouro proxy: how one process takes over from another.
//!
//! Here will be the messages, the roles of parent and child, and the transport of descriptors. Today there is what is
//! fixed for good: the version of the protocol, and where the two processes meet.
//!
//! Carries descriptors and bytes whose meaning it does not know; knows nothing of the proxy.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Version of the protocol between parent and child. Fields and messages are added without a new version; it grows
/// only when a process of the old version could not make sense of what it is sent.
pub const PROTOCOL_VERSION: u32 = 1;

/// Name of the directory under `$XDG_RUNTIME_DIR` and `/run`.
const DIRECTORY: &str = "ouro";

/// What the choice of the socket directory depends on; the caller asks the system for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings<'a> {
    /// `$XDG_RUNTIME_DIR`, if it is set.
    pub xdg_runtime_dir: Option<&'a OsStr>,
    /// Whether this user can use `/run/ouro`: it is there and theirs, or they may create it.
    pub run_is_usable: bool,
    /// Effective user id.
    pub uid: u32,
}

/// The directory in which the processes of one user meet, unless `--socket-path` names another place: the first that
/// there is of `$XDG_RUNTIME_DIR/ouro`, `/run/ouro` and `/tmp/ouro-<uid>`.
///
/// Only names it. Whoever creates it does so with mode 0700, and whoever uses it checks that it belongs to `uid`: in
/// `/tmp` anybody could have been there first.
#[must_use]
pub fn socket_directory(surroundings: &Surroundings<'_>) -> PathBuf {
    // A relative path is to be ignored, says the XDG base directory specification; an empty one is relative.
    let xdg = surroundings.xdg_runtime_dir.map(Path::new).filter(|path| path.is_absolute());
    match xdg {
        Some(runtime) => runtime.join(DIRECTORY),
        None if surroundings.run_is_usable => Path::new("/run").join(DIRECTORY),
        None => PathBuf::from(format!("/tmp/{DIRECTORY}-{}", surroundings.uid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(xdg: Option<&str>, run_is_usable: bool, expected: &str) {
        let xdg_runtime_dir = xdg.map(OsStr::new);
        let found = socket_directory(&Surroundings { xdg_runtime_dir, run_is_usable, uid: 1000 });
        assert_eq!(found, Path::new(expected));
    }

    #[test]
    fn the_runtime_directory_of_the_user_goes_first() {
        check(Some("/run/user/1000"), true, "/run/user/1000/ouro");
        check(Some("/run/user/1000"), false, "/run/user/1000/ouro");
        check(Some("/run/user/1000/"), false, "/run/user/1000/ouro");
    }

    #[test]
    fn then_run_and_then_tmp() {
        check(None, true, "/run/ouro");
        check(None, false, "/tmp/ouro-1000");
    }

    #[test]
    fn a_runtime_directory_that_is_no_absolute_path_is_ignored() {
        for nonsense in ["", "run", "./run/user/1000"] {
            check(Some(nonsense), true, "/run/ouro");
            check(Some(nonsense), false, "/tmp/ouro-1000");
        }
    }
}
