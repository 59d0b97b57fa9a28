//! Where the processes of one instance meet: the directory, and the name of the socket in it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;

/// Name of the directory under `$XDG_RUNTIME_DIR` and `/run`.
const DIRECTORY: &str = "ouro";

/// Permissions of the directory: nobody but its owner gets in.
const DIRECTORY_MODE: u32 = 0o700;

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

/// The directory for this process, by its environment and its rights. Creates `/run/ouro` where it is needed and
/// allowed; [`prepare_directory`] is still to be called with what comes out.
#[must_use]
pub fn socket_directory_of_this_process() -> PathBuf {
    let xdg_runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
    let uid = rustix::process::geteuid().as_raw();
    let xdg_runtime_dir = xdg_runtime_dir.as_deref();
    let choose = |run_is_usable| socket_directory(&Surroundings { xdg_runtime_dir, run_is_usable, uid });
    let (with_run, without_run) = (choose(true), choose(false));
    if with_run != without_run && prepare_directory(&with_run, uid).is_ok() {
        return with_run;
    }
    without_run
}

/// Creates the directory if it is not there, and checks that nobody but `uid` can do anything in it.
///
/// # Errors
///
/// If it cannot be created, is no directory (a symbolic link is none), belongs to somebody else, or lets others in.
pub fn prepare_directory(path: &Path, uid: u32) -> Result<(), AddressError> {
    let error = |problem| AddressError { path: path.to_owned(), problem };
    match std::fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => {}
        Err(found) if found.kind() == io::ErrorKind::AlreadyExists => {}
        Err(other) => return Err(error(Problem::Io(other))),
    }
    let found = std::fs::symlink_metadata(path).map_err(|other| error(Problem::Io(other)))?;
    if !found.is_dir() {
        Err(error(Problem::NoDirectory))
    } else if found.uid() != uid {
        Err(error(Problem::Owner(found.uid())))
    } else if found.mode() & 0o7777 != DIRECTORY_MODE {
        Err(error(Problem::Mode(found.mode() & 0o7777)))
    } else {
        Ok(())
    }
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub struct AddressError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Io(io::Error),
    NoDirectory,
    Owner(u32),
    Mode(u32),
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the directory {} for the restart socket ", self.path.display())?;
        match &self.problem {
            Problem::Io(error) => write!(f, "cannot be used: {error}"),
            Problem::NoDirectory => write!(f, "is no directory (a symbolic link is not followed)"),
            Problem::Owner(uid) => write!(f, "belongs to user {uid}"),
            Problem::Mode(mode) => write!(f, "has mode {mode:04o} instead of {DIRECTORY_MODE:04o}"),
        }
    }
}

impl std::error::Error for AddressError {}

/// Address of the restart socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Path(PathBuf),
    /// A name in the abstract namespace, without the zero byte in front. Anybody on the machine may connect or be there
    /// first; what keeps them out is that both ends look at each other's user.
    Abstract(OsString),
}

impl Address {
    /// The socket of an instance in the directory that [`socket_directory`] chose.
    #[must_use]
    pub fn in_directory(directory: &Path, base_id: u32) -> Self {
        Self::Path(directory.join(format!("restart-{base_id}.sock")))
    }

    /// The socket of an instance as `--socket-path` says: `@name` becomes `@name-<base id>`; a path that ends with a
    /// slash names a directory, any other one is the beginning of the name.
    #[must_use]
    pub fn from_option(socket_path: &OsStr, base_id: u32) -> Self {
        let bytes = socket_path.as_bytes();
        let with = |start: &[u8], end: String| OsString::from_vec([start, end.as_bytes()].concat());
        match bytes {
            [b'@', name @ ..] => Self::Abstract(with(name, format!("-{base_id}"))),
            [.., b'/'] => Self::Path(with(bytes, format!("restart-{base_id}.sock")).into()),
            _ => Self::Path(with(bytes, format!("-{base_id}.sock")).into()),
        }
    }

    /// The address as the kernel takes it.
    ///
    /// # Errors
    ///
    /// If it is longer than 107 bytes or has a zero byte.
    pub(crate) fn to_socket(&self) -> io::Result<SocketAddrUnix> {
        Ok(match self {
            Self::Path(path) => SocketAddrUnix::new(path)?,
            Self::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{}", name.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

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

    #[test]
    fn the_name_says_which_instance_it_is() {
        let path = |text: &str| Address::Path(text.into());
        assert_eq!(Address::in_directory(Path::new("/run/ouro"), 7), path("/run/ouro/restart-7.sock"));
        for (option, expected) in [
            ("/run/x/proxy", path("/run/x/proxy-7.sock")),
            ("/run/x/", path("/run/x/restart-7.sock")),
            ("@proxy", Address::Abstract("proxy-7".into())),
        ] {
            assert_eq!(Address::from_option(OsStr::new(option), 7), expected);
        }
        assert_eq!(Address::Abstract("proxy-7".into()).to_string(), "@proxy-7");
    }

    #[test]
    fn a_path_that_the_kernel_would_cut_is_refused() {
        assert!(Address::Path("/x".repeat(60).into()).to_socket().is_err());
    }
}
