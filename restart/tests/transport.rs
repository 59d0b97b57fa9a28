//! The transport with real sockets, and both roles over it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use ouro_restart::address::{Address, prepare_directory};
use ouro_restart::child::ConnectFailure;
use ouro_restart::frame::Frame;
use ouro_restart::limits::FRAME_FDS_MAX;
use ouro_restart::message::{self, Abort, ListenSocket, Message};
use ouro_restart::transport::{BindError, Flushed, TransportError};
use ouro_restart::{Connection, Listener, listen_sockets_reply};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ouro-restart-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        prepare_directory(&path, uid()).unwrap();
        Self(path)
    }

    fn address(&self) -> Address {
        Address::in_directory(&self.0, 3)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn ping() -> Frame {
    Frame::new(7, message::Ping {})
}

fn receive(connection: &mut Connection) -> Result<ouro_restart::transport::Received, TransportError> {
    loop {
        if let Some(received) = connection.receive()? {
            return Ok(received);
        }
        assert!(connection.wait(5_000).unwrap(), "nothing comes");
    }
}

fn accept(listener: &Listener) -> Connection {
    listener.accept().unwrap().unwrap()
}

#[test]
fn frames_go_both_ways_and_the_end_is_seen() {
    let directory = Directory::new("both-ways");
    let listener = Listener::bind(&directory.address(), 0o600).unwrap();
    assert!(listener.accept().unwrap().is_none());
    let mut child = Connection::connect(&directory.address()).unwrap();
    let mut parent = accept(&listener);
    assert_eq!((parent.peer_uid(), parent.peer_pid()), (uid(), Some(std::process::id())));
    assert_eq!(parent.peer_has_ended(), Some(false));
    child.send(&ping(), &[]).unwrap();
    assert_eq!(receive(&mut parent).unwrap().frame, ping());
    assert!(parent.receive().unwrap().is_none());
    parent.send(&ping(), &[]).unwrap();
    drop(parent);
    assert_eq!(receive(&mut child).unwrap().frame, ping());
    assert!(matches!(receive(&mut child), Err(TransportError::Gone)));
    assert!(matches!(child.send(&ping(), &[]), Err(TransportError::Gone)));
}

#[test]
fn a_thousand_sockets_arrive_in_batches_and_still_listen() {
    let (mut parent, mut child) = Connection::pair().unwrap();
    // As many names as a thousand listeners have; a few sockets stand for all, each descriptor is one of its own.
    let listeners: Vec<TcpListener> = (0..10).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let of = |number: usize| listeners[number % 10].local_addr().unwrap().to_string();
    let sockets: Vec<ListenSocket> = (0..1000)
        .map(|number| ListenSocket { bound_address: of(number), ..ListenSocket::default() })
        .collect();
    let mut cursor = 0;
    let mut adopted = Vec::new();
    loop {
        let (reply, range) = listen_sockets_reply(&sockets, cursor);
        let fds: Vec<BorrowedFd<'_>> = range.map(|number| listeners[number % 10].as_fd()).collect();
        parent.send(&Frame::new(1, reply), &fds).unwrap();
        let received = receive(&mut child).unwrap();
        let Message::ListenSocketsReply(reply) = received.frame.message else { panic!() };
        assert_eq!(reply.sockets.len(), received.fds.len());
        // Only the first few are kept, so that the test is content with a small table of descriptors.
        let pairs = reply.sockets.into_iter().zip(received.fds);
        adopted.extend(pairs.map(|(socket, fd)| {
            let flags = rustix::io::fcntl_getfd(&fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            let listener = TcpListener::from(fd);
            assert_eq!(listener.local_addr().unwrap().to_string(), socket.bound_address);
        }));
        cursor = reply.next;
        if !reply.more {
            break;
        }
    }
    assert_eq!(adopted.len(), 1000);
}

/// A plain socket that is connected to a listener of ours.
fn stranger(address: &Address) -> OwnedFd {
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .unwrap();
    let Address::Path(path) = address else { panic!() };
    rustix::net::connect(&fd, &rustix::net::SocketAddrUnix::new(path).unwrap()).unwrap();
    fd
}

fn send_raw(fd: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    rustix::net::sendmsg(fd, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

#[test]
fn garbage_of_all_kinds_is_refused_and_its_descriptors_are_closed() {
    let directory = Directory::new("garbage");
    let listener = Listener::bind(&directory.address(), 0o600).unwrap();
    let good = ping().encode().unwrap();
    let long = vec![0; 100_000];
    let half = Frame::new(1, Abort::new("because")).encode().unwrap();
    for (bytes, count) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], 0),
        (&half[..half.len() - 3], 0),
        (&half[..7], 1),
        (&long, 0),
        (&long, 3),
        (&good, FRAME_FDS_MAX + 1),
        (&good, 253),
        (&b"nonsense"[..], 100),
    ] {
        // A pipe shows whether the copies of its writing end are gone.
        let (reader, writer) = rustix::pipe_for_test();
        let stranger = stranger(&directory.address());
        let mut peer = accept(&listener);
        send_raw(&stranger, bytes, &vec![writer.as_fd(); count]);
        drop(writer);
        let error = receive(&mut peer).unwrap_err();
        assert!(!matches!(error, TransportError::Gone | TransportError::Io(_)), "{error}");
        assert!(rustix::at_end(&reader), "{} bytes, {count} descriptors", bytes.len());
    }
}

mod rustix {
    pub(crate) use ::rustix::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    pub(crate) fn pipe_for_test() -> (std::io::PipeReader, OwnedFd) {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader, writer.into())
    }

    /// Whether nobody has the writing end any more.
    pub(crate) fn at_end(mut reader: &std::io::PipeReader) -> bool {
        let mut polled = [event::PollFd::new(reader, event::PollFlags::IN)];
        let timeout = event::Timespec { tv_sec: 5, tv_nsec: 0 };
        event::poll(&mut polled, Some(&timeout)).unwrap() > 0 && reader.read(&mut [0]).unwrap() == 0
    }
}

#[test]
fn who_does_not_read_is_given_up_and_not_before() {
    let (mut parent, mut child) = Connection::pair().unwrap();
    let mut sent = 0_u32;
    let error = loop {
        match parent.send(&Frame::new(sent, message::Ping {}), &[]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TransportError::Clogged), "{error}");
    assert!((1000..10_000).contains(&sent), "{sent}");
    assert_eq!(parent.flush().unwrap(), Flushed::WhenWritable);
    // All that was taken arrives, in order.
    for number in 0..sent {
        if parent.has_output() {
            parent.flush().unwrap();
        }
        assert_eq!(receive(&mut child).unwrap().frame.request_id, number);
    }
    assert!(!parent.has_output());
}

#[test]
fn kept_frames_keep_their_descriptors() {
    let (mut parent, mut child) = Connection::pair().unwrap();
    let (reader, writer) = rustix::pipe_for_test();
    while !parent.has_output() {
        parent.send(&ping(), &[]).unwrap();
    }
    parent.send(&Frame::new(1, message::Pong {}), &[writer.as_fd()]).unwrap();
    drop(writer);
    loop {
        parent.flush().unwrap();
        let received = receive(&mut child).unwrap();
        if let Message::Pong(_) = received.frame.message {
            let fd = received.fds.into_iter().next().unwrap();
            std::fs::File::from(fd).write_all(b"x").unwrap();
            break;
        }
    }
    let mut byte = [0];
    std::io::Read::read_exact(&mut &reader, &mut byte).unwrap();
    assert!(rustix::at_end(&reader));
}

#[test]
fn a_user_who_is_not_trusted_is_refused_on_both_ends() {
    let directory = Directory::new("users");
    let listener = Listener::bind(&directory.address(), 0o600).unwrap();
    let mut child = Connection::connect(&directory.address()).unwrap();
    assert!(
        matches!(listener.accept_checked(|_| false), Err(TransportError::Forbidden(found)) if found == uid())
    );
    // It is told, or it would come again.
    let Message::Abort(abort) = receive(&mut child).unwrap().frame.message else { panic!("no Abort") };
    assert!(abort.reason.contains("runs as user"), "{}", abort.reason);
    assert!(matches!(receive(&mut child), Err(TransportError::Gone)));
    let (failure, why) = Connection::connect_checked(&directory.address(), |_| false).unwrap_err();
    assert_eq!(failure, ConnectFailure::Refused);
    assert!(why.contains("runs as user"), "{why}");
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let directory = Directory::new("stale");
    let address = directory.address();
    let nobody = |address: &Address| Connection::connect(address).unwrap_err().0;
    assert_eq!(nobody(&address), ConnectFailure::Nobody);
    let first = Listener::bind(&address, 0o600).unwrap();
    assert!(matches!(Listener::bind(&address, 0o600), Err(BindError::InUse)));
    assert_eq!(directory.files(), 1);
    drop(first);
    assert_eq!(nobody(&address), ConnectFailure::Nobody);
    let second = Listener::bind(&address, 0o620).unwrap();
    Connection::connect(&address).unwrap();
    assert_eq!(directory.files(), 1, "nothing is left over");
    let Address::Path(path) = &address else { panic!() };
    assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o620);
    assert!(second.is_in_place());
    // Only its own file is removed.
    std::fs::remove_file(path).unwrap();
    assert!(!second.is_in_place());
    let third = Listener::bind(&address, 0o600).unwrap();
    second.remove().unwrap();
    assert!(third.is_in_place());
    third.remove().unwrap();
    assert_eq!(directory.files(), 0);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = Directory::new("no-socket");
    let address = directory.address();
    let Address::Path(path) = &address else { panic!() };
    std::fs::write(path, "precious").unwrap();
    assert!(matches!(Listener::bind(&address, 0o600), Err(BindError::NoSocket)));
    std::fs::remove_file(path).unwrap();
    symlink("/nowhere", path).unwrap();
    assert!(matches!(Listener::bind(&address, 0o600), Err(BindError::NoSocket)));
    std::fs::remove_file(path).unwrap();
    // A socket of another type at which somebody listens.
    let other = UnixListener::bind(path).unwrap();
    assert!(matches!(Listener::bind(&address, 0o600), Err(BindError::InUse)));
    drop(other);
    assert_eq!(directory.files(), 1);
}

#[test]
fn many_who_start_at_once_end_up_with_one_listener() {
    for stale in [false, true] {
        let directory = Directory::new(&format!("race-{stale}"));
        let address = directory.address();
        if stale {
            drop(Listener::bind(&address, 0o600).unwrap());
        }
        let bind = || Listener::bind(&address, 0o600).ok();
        let won: Vec<Listener> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|listener| listener.is_in_place()).count(), 1);
        assert_eq!(directory.files(), 1);
        let _child = Connection::connect(&address).unwrap();
    }
}

#[test]
fn a_listener_that_was_handed_over_goes_on_where_the_other_stopped() {
    let directory = Directory::new("adopt");
    let first = Listener::bind(&directory.address(), 0o600).unwrap();
    let mut child = Connection::connect(&directory.address()).unwrap();
    let second = Listener::adopt(first.as_fd().try_clone_to_owned().unwrap(), directory.address());
    drop(first);
    second.claim().unwrap();
    // Who came before the handover is still in the queue.
    let mut parent = accept(&second);
    child.send(&ping(), &[]).unwrap();
    receive(&mut parent).unwrap();
    assert!(second.is_in_place());
    Connection::connect(&directory.address()).unwrap();
}

#[test]
fn an_abstract_name_works_too_and_belongs_to_one() {
    let name = std::ffi::OsString::from(format!("@ouro-test-{}", std::process::id()));
    let address = Address::from_option(&name, 3);
    let listener = Listener::bind(&address, 0o600).unwrap();
    assert!(matches!(Listener::bind(&address, 0o600), Err(BindError::InUse)));
    let _child = Connection::connect(&address).unwrap();
    accept(&listener);
    drop(listener);
    assert_eq!(Connection::connect(&address).unwrap_err().0, ConnectFailure::Nobody);
}

#[test]
fn a_full_queue_is_no_reason_to_believe_that_nobody_is_there() {
    let directory = Directory::new("full");
    let address = directory.address();
    let _listener = Listener::bind(&address, 0o600).unwrap();
    let mut waiting = Vec::new();
    let failure = loop {
        match Connection::connect(&address) {
            Ok(connection) => waiting.push(connection),
            Err((failure, _)) => break failure,
        }
        assert!(waiting.len() < 1000);
    };
    assert_eq!(failure, ConnectFailure::Busy);
    assert!(matches!(Listener::bind(&address, 0o600), Err(BindError::InUse)));
}

#[test]
fn the_end_of_the_other_process_can_be_seen() {
    let directory = Directory::new("end");
    let listener = Listener::bind(&directory.address(), 0o600).unwrap();
    let Address::Path(path) = directory.address() else { panic!() };
    let script = "import socket,sys\n\
                  s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n\
                  s.connect(sys.argv[1])\nsys.stdin.read()";
    let Ok(mut process) = std::process::Command::new("python3")
        .args([std::ffi::OsStr::new("-c"), script.as_ref(), path.as_os_str()])
        .stdin(std::process::Stdio::piped())
        .spawn()
    else {
        println!("skipped: there is no python3");
        return;
    };
    let mut polled = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&timeout)).unwrap();
    let mut peer = accept(&listener);
    assert_eq!(peer.peer_pid(), Some(process.id()));
    assert_eq!(peer.peer_has_ended(), Some(false));
    process.kill().unwrap();
    assert!(matches!(receive(&mut peer), Err(TransportError::Gone)));
    // Even before anybody has waited for it.
    process.wait().unwrap();
    assert_eq!(peer.peer_has_ended(), Some(true));
}

#[test]
fn a_directory_that_others_could_have_made_is_refused() {
    let directory = Directory::new("directory");
    let inside = |name: &str| directory.0.join(name);
    let refused = |path: &Path, uid: u32| prepare_directory(path, uid).unwrap_err().to_string();

    prepare_directory(&inside("new"), uid()).unwrap();
    assert_eq!(std::fs::metadata(inside("new")).unwrap().mode() & 0o7777, 0o700);
    prepare_directory(&inside("new"), uid()).unwrap();
    assert!(refused(&inside("new"), uid() + 1).contains("belongs to user"));

    for mode in [0o755, 0o770, 0o701, 0o1777] {
        std::fs::set_permissions(inside("new"), std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(refused(&inside("new"), uid()).contains("has mode"), "{mode:o}");
    }
    std::fs::set_permissions(inside("new"), std::fs::Permissions::from_mode(0o700)).unwrap();
    symlink(inside("new"), inside("link")).unwrap();
    assert!(refused(&inside("link"), uid()).contains("is no directory"));
    std::fs::write(inside("file"), "").unwrap();
    assert!(refused(&inside("file"), uid()).contains("is no directory"));
    assert!(refused(&inside("missing/deeper"), uid()).contains("cannot be used"));
}
