//! Processes that are not there: the test speaks the restart protocol itself, as far as it likes.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ouro_restart::message::{
    ChildReady, DrainListeners, DrainListenersReply, HandoverDone, Hello, HelloReply, ListenSocket,
    ListenSockets, ListenSocketsReply, Message, State, StateReply, Terminated,
};
use ouro_restart::transport::{Received, TransportError};
use ouro_restart::{Address, Connection, Frame, Identity, Listener};

use crate::instance::{Instance, Process, READY};
use crate::support::eventually;

/// A step of a child, after which something may happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Connected,
    Hello,
    ListenSockets,
    State,
    Ready,
    Committed,
    LastState,
}

impl Step {
    pub(crate) const BEFORE_COMMIT: [Self; 5] =
        [Self::Connected, Self::Hello, Self::ListenSockets, Self::State, Self::Ready];
    pub(crate) const AFTER_COMMIT: [Self; 2] = [Self::Committed, Self::LastState];
}

/// One end of a connection of the restart protocol.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    request_id: u32,
}

impl Peer {
    /// A child without a process.
    #[track_caller]
    pub(crate) fn child(instance: &Instance) -> Self {
        let connection = Connection::connect(&instance.address()).unwrap_or_else(|(_, why)| panic!("{why}"));
        Self::of(connection)
    }

    pub(crate) fn of(connection: Connection) -> Self {
        Self { connection, request_id: 0 }
    }

    /// Goes through the steps up to this one; what was handed over.
    #[track_caller]
    pub(crate) fn go_to(&mut self, instance: &Instance, step: Step) -> Vec<(ListenSocket, Received)> {
        if step >= Step::Hello {
            self.request(hello(instance));
            self.expect("HelloReply");
        }
        self.go_on_to(step)
    }

    /// The same behind Hello.
    #[track_caller]
    pub(crate) fn go_on_to(&mut self, step: Step) -> Vec<(ListenSocket, Received)> {
        let mut sockets = Vec::new();
        if step >= Step::ListenSockets {
            let mut cursor = 0;
            loop {
                self.request(ListenSockets { cursor });
                let received = self.expect("ListenSocketsReply");
                let Message::ListenSocketsReply(reply) = &received.frame.message else { unreachable!() };
                assert_eq!(reply.sockets.len(), received.fds.len());
                let (more, next, first) = (reply.more, reply.next, reply.sockets.first().cloned());
                sockets.extend(first.map(|first| (first, received)));
                if !more {
                    break;
                }
                cursor = next;
            }
        }
        if step >= Step::State {
            self.request(State { cursor: 0 });
            self.expect("StateReply");
        }
        if step >= Step::Ready {
            self.send(0, ChildReady { workers: 1 });
        }
        if step >= Step::Committed {
            self.request(DrainListeners {
                drain_ms: 0,
                parent_shutdown_ms: 60_000,
                ..DrainListeners::default()
            });
            self.expect("DrainListenersReply");
        }
        if step >= Step::LastState {
            self.request(State { cursor: 0 });
            self.expect("StateReply");
        }
        sockets
    }

    pub(crate) fn send(&mut self, request_id: u32, message: impl Into<Message>) {
        let _ = self.connection.send(&Frame::new(request_id, message), &[]);
    }

    pub(crate) fn request(&mut self, message: impl Into<Message>) {
        self.request_id += 1;
        self.send(self.request_id, message);
    }

    /// Sends bytes that need not be a frame.
    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        let fd = self.connection.as_fd().as_raw_fd();
        let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
        nix::sys::socket::send(fd, bytes, flags).unwrap();
    }

    /// The next frame, be it what it may.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Result<Received, TransportError> {
        let mut found = None;
        eventually("a frame comes", || {
            let _ = self.connection.wait(100);
            found = self.connection.receive().transpose();
            found.is_some()
        });
        found.unwrap()
    }

    /// The next frame that is neither Ping nor progress, which has to be of this kind. Pings are answered.
    #[track_caller]
    pub(crate) fn expect(&mut self, name: &str) -> Received {
        loop {
            let received = self.next().unwrap_or_else(|error| panic!("{name} expected: {error}"));
            match &received.frame.message {
                Message::Ping(_) => {
                    let id = received.frame.request_id;
                    self.send(id, ouro_restart::message::Pong {});
                }
                Message::ParentProgress(_) => {}
                // A parent without connections is done at once.
                Message::HandoverDone(_) if name != "HandoverDone" => {}
                message if message.name() == name => return received,
                message => panic!("{name} expected, not {message:?}"),
            }
        }
    }

    /// Waits until the other side has hung up; what it has said last.
    #[track_caller]
    pub(crate) fn expect_gone(&mut self) -> Option<Message> {
        let mut last = None;
        loop {
            match self.next() {
                Ok(received) => last = Some(received.frame.message),
                Err(_) => return last,
            }
        }
    }
}

/// What a child of the next epoch says.
pub(crate) fn hello(instance: &Instance) -> Hello {
    identity(instance).hello()
}

pub(crate) fn identity(instance: &Instance) -> Identity {
    Identity::new("0.0.0-test", ouro_shm::LAYOUT_VERSION, instance.base_id().0)
}

/// A parent without a process: listens at the restart socket.
pub(crate) struct FakeParent {
    listener: Listener,
}

impl FakeParent {
    pub(crate) fn new(instance: &Instance) -> Self {
        Self::at(&instance.address())
    }

    fn at(address: &Address) -> Self {
        Self { listener: Listener::bind(address, 0o600).unwrap() }
    }

    /// Waits for a child.
    #[track_caller]
    pub(crate) fn accept(&self) -> Peer {
        let mut found = None;
        eventually("a child connects", || {
            found = self.listener.accept().unwrap();
            found.is_some()
        });
        Peer::of(found.unwrap())
    }

    /// What a parent of epoch 4 answers.
    pub(crate) fn reply(instance: &Instance) -> HelloReply {
        HelloReply {
            program_version: "0.0.0-test".into(),
            protocol_min: 1,
            protocol_max: 1,
            protocol: 1,
            layout_version: ouro_shm::LAYOUT_VERSION,
            hot_restart_version: identity(instance).hot_restart_version,
            epoch: 4,
            child_epoch: 5,
            pid: std::process::id(),
            capabilities: Vec::new(),
            base_id: instance.base_id().0,
            busy: false,
            elder: false,
            segment_id: 0,
            lost_segments: Vec::new(),
        }
    }

    /// The restart socket.
    pub(crate) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The listening socket of a worker at this address, as a parent describes it.
    pub(crate) fn described(address: SocketAddr) -> ListenSocket {
        ListenSocket {
            purpose: "listener".into(),
            protocol: "tcp".into(),
            socket_type: "stream".into(),
            address: address.to_string(),
            bound_address: address.to_string(),
            worker: 0,
            name: "web".into(),
        }
    }

    /// Hands over these sockets and the restart socket, all at once.
    #[track_caller]
    pub(crate) fn hand_over(
        &self,
        peer: &mut Peer,
        request_id: u32,
        sockets: Vec<(ListenSocket, BorrowedFd<'_>)>,
    ) {
        let (mut sockets, mut fds): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        sockets.push(ListenSocket { purpose: "restart".into(), ..ListenSocket::default() });
        fds.push(self.listener.as_fd());
        let next = sockets.len() as u64;
        let reply = ListenSocketsReply { sockets, more: false, next };
        peer.connection.send(&Frame::new(request_id, reply), &fds).unwrap();
    }

    /// Starts a process that takes over this listening socket, from a parent without connections that ends in good order.
    #[track_caller]
    pub(crate) fn bequeath(instance: &Instance, listener: &TcpListener) -> Process {
        let parent = Self::new(instance);
        let child = instance.spawn("auto", "");
        let mut peer = parent.accept();
        let id = peer.expect("Hello").frame.request_id;
        peer.send(id, Self::reply(instance));
        let id = peer.expect("ListenSockets").frame.request_id;
        let described = Self::described(listener.local_addr().unwrap());
        parent.hand_over(&mut peer, id, vec![(described, listener.as_fd())]);
        let id = peer.expect("State").frame.request_id;
        peer.send(id, StateReply::default());
        peer.expect("ChildReady");
        let id = peer.expect("DrainListeners").frame.request_id;
        peer.send(id, DrainListenersReply::default());
        let id = peer.expect("State").frame.request_id;
        peer.send(id, StateReply::default());
        child.wait_log(READY);
        peer.send(0, HandoverDone { moved: 0, cut: 0 });
        peer.expect("TerminateParent");
        peer.send(0, Terminated { cut: 0 });
        peer.expect_gone();
        child
    }
}

/// A listening socket as the proxy binds them: shared, so that a further worker could join.
#[track_caller]
pub(crate) fn listen_as_proxy(address: SocketAddr) -> TcpListener {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(64).unwrap();
    socket.into()
}

/// Stands between a real child and a real parent, and hands on what they say as far as it likes.
pub(crate) struct Between {
    /// Nobody accepts here any more, but the child may ask whether somebody serves.
    _meeting: FakeParent,
    child: Peer,
    parent: Peer,
}

impl Between {
    /// Starts a child that finds the running process only through this.
    #[track_caller]
    pub(crate) fn start(instance: &Instance) -> (Self, Process) {
        let path = instance.path("between");
        let meeting = FakeParent::at(&Address::from_option(path.as_os_str(), instance.base_id().0));
        let process = instance.spawn("auto", &format!("--socket-path {}", path.display()));
        let child = meeting.accept();
        (Self { _meeting: meeting, child, parent: Peer::child(instance) }, process)
    }

    /// Hands on until so many messages of the child went by, the last of them with its answer if `answered`.
    #[track_caller]
    pub(crate) fn hand_on(&mut self, messages: usize, answered: bool) {
        let mut count = 0;
        let mut id = 0;
        eventually("the child says what is to be handed on", || {
            if count < messages
                && let Some(Received { frame, .. }) = self.child.connection.receive().unwrap()
            {
                count += 1;
                id = frame.request_id;
                self.parent.connection.send(&frame, &[]).unwrap();
            }
            let mut is_answered = false;
            while let Some(Received { frame, fds }) = self.parent.connection.receive().unwrap() {
                is_answered |= frame.request_id == id;
                if count < messages || answered || frame.request_id != id {
                    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    let _ = self.child.connection.send(&frame, &fds);
                }
            }
            // What is no request gets no answer.
            count == messages && (is_answered || id == 0)
        });
    }

    /// Hands on until one of them has hung up, in a thread of its own.
    pub(crate) fn hand_on_to_the_end(mut self) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            loop {
                let _ = self.child.connection.wait(2);
                match self.child.connection.receive() {
                    Ok(Some(Received { frame, .. })) => drop(self.parent.connection.send(&frame, &[])),
                    Ok(None) => {}
                    Err(_) => return,
                }
                loop {
                    match self.parent.connection.receive() {
                        Ok(Some(Received { frame, fds })) => {
                            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                            let _ = self.child.connection.send(&frame, &fds);
                        }
                        Ok(None) => break,
                        Err(_) => return,
                    }
                }
            }
        })
    }
}
