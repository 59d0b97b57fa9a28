//! What the kernel allows: probed once, before any worker starts, into one [`Capabilities`] value.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use io_uring::{IoUring, Probe, opcode};

use super::{Ring, kernel};
use crate::base::limits;

/// How long a probe waits for an answer that comes at once.
const PROBE_MS: u64 = 1_000;

/// Features of this kernel that the ring uses.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// Kernel release as `uname` prints it.
    pub kernel: String,
    /// A CQE can cover several buffers (6.10). Not used yet; kept because it is shown to the operator.
    pub recvsend_bundle: bool,
    /// Waiting does not count as I/O wait (6.15).
    pub no_iowait: bool,
    /// A multishot recv ends by itself after a number of bytes (6.17), which bounds what a socket can hold exactly.
    pub recv_limit: bool,
    /// A file can be registered with the ring, and is closed as soon as nothing uses it (6.13). Before, any operation on a
    /// registered file put off the end of all.
    pub registered_files: bool,
}

/// Why the ring cannot run here, and what to do about it.
#[derive(Debug)]
pub struct Unsupported {
    missing: String,
    remedy: &'static str,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring cannot be used here: {}. {}", self.missing, self.remedy)
    }
}

impl std::error::Error for Unsupported {}

const OLD_KERNEL: &str = "Ouro needs Linux 6.1 or newer.";
const DISABLED: &str = "The sysctl kernel.io_uring_disabled forbids it: set it to 0 (sysctl -w kernel.io_uring_disabled=0), \
     or to 1 and put Ouro's group into kernel.io_uring_group.";
const SECCOMP: &str = "A seccomp profile probably forbids it, as the default ones of Docker and containerd do: run the \
     container with a profile that allows io_uring_setup, io_uring_enter and io_uring_register (docker run \
     --security-opt seccomp=PROFILE.json).";
const MEMORY: &str = "Raise the limit on locked memory (ulimit -l), or lower --concurrency.";

/// Looks at the kernel once.
///
/// # Errors
/// With what is missing and how to allow it.
pub fn probe() -> Result<Capabilities, Unsupported> {
    let release = nix::sys::utsname::uname()
        .map_or_else(|_| String::from("unknown"), |name| name.release().to_string_lossy().into_owned());
    let ring = kernel::build_ring(8, 64).map_err(|error| explain_setup(&error, &release))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| Unsupported {
        missing: format!("the kernel ({release}) does not tell which operations it has: {error}"),
        remedy: OLD_KERNEL,
    })?;
    for (code, name) in [
        (opcode::AcceptMulti::CODE, "accept"),
        (opcode::RecvMulti::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Connect::CODE, "connect"),
        (opcode::Close::CODE, "close"),
        (opcode::AsyncCancel::CODE, "cancel"),
        // Zero-copy send came with 6.0 as multishot recv did, which itself cannot be asked for.
        (opcode::SendZc::CODE, "multishot recv"),
    ] {
        if !probe.is_supported(code) {
            return Err(Unsupported {
                missing: format!("the kernel ({release}) has no {name} operation"),
                remedy: OLD_KERNEL,
            });
        }
    }
    probe_buffer_ring(&ring).map_err(|error| Unsupported {
        missing: format!("the kernel ({release}) does not take a buffer ring: {error}"),
        remedy: OLD_KERNEL,
    })?;
    let mut capabilities = Capabilities {
        recvsend_bundle: ring.params().is_feature_recvsend_bundle(),
        no_iowait: ring.params().is_feature_no_iowait(),
        recv_limit: true,
        registered_files: is_at_least(&release, 6, 13),
        kernel: release,
    };
    capabilities.recv_limit = probe_recv_limit(&capabilities).unwrap_or(false);
    Ok(capabilities)
}

/// Tries a limited recv on a pair of sockets: older kernels refuse the field.
fn probe_recv_limit(capabilities: &Capabilities) -> io::Result<bool> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.write_all(b"?")?;
    let ring = Ring::new(4096, limits::INITIAL_RECEIVE_BUFFERS * 4096, 0, capabilities)?;
    let received = Rc::new(Cell::new(false));
    let (inner, result) = (ring.clone(), Rc::clone(&received));
    ring.run(async move {
        let socket = inner.adopt(OwnedFd::from(theirs));
        socket.attach(inner.current_task());
        let deadline = inner.now() + PROBE_MS;
        while socket.status().unread == 0 && socket.status().recv_error == 0 && inner.now() < deadline {
            inner.wait(deadline).await;
        }
        result.set(socket.status().unread == 1);
    })?;
    Ok(received.get())
}

fn explain_setup(error: &io::Error, release: &str) -> Unsupported {
    let missing = format!("io_uring_setup failed on kernel {release}: {error}");
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if sysctl_forbids() => DISABLED,
        Some(libc::EPERM | libc::EACCES) => SECCOMP,
        // Some profiles deny what they do not know by pretending that it is not there.
        Some(libc::ENOSYS) if is_new_enough(release) => SECCOMP,
        Some(libc::ENOMEM) => MEMORY,
        _ => OLD_KERNEL,
    };
    Unsupported { missing, remedy }
}

/// Whether a release such as `6.18.4-arch1` is 6.1 or newer.
fn is_new_enough(release: &str) -> bool {
    is_at_least(release, 6, 1)
}

pub(super) fn is_at_least(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

fn sysctl_forbids() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() != "0")
}

fn probe_buffer_ring(ring: &IoUring) -> io::Result<()> {
    let entries = kernel::BufferRing::register(ring, 8)?;
    drop(entries);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_setup_names_the_remedy() {
        for (errno, part) in
            [(libc::EINVAL, "6.1 or newer"), (libc::ENOSYS, "6.1 or newer"), (libc::ENOMEM, "ulimit -l")]
        {
            let text = explain_setup(&io::Error::from_raw_os_error(errno), "5.10").to_string();
            assert!(text.contains(part) && text.contains("5.10"), "{text}");
        }
        let hidden = explain_setup(&io::Error::from_raw_os_error(libc::ENOSYS), "6.18.4-arch1").to_string();
        assert!(hidden.contains("seccomp"), "{hidden}");
        let text = explain_setup(&io::Error::from_raw_os_error(libc::EPERM), "6.1").to_string();
        assert!(text.contains("seccomp") || text.contains("io_uring_disabled"), "{text}");
    }
}
