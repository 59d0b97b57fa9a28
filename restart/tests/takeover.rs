//! Both roles over real sockets: what a program has to do between the machines and the transport, and no more.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ouro_restart::address::{Address, prepare_directory};
use ouro_restart::child::{self, Child};
use ouro_restart::message::ListenSocket;
use ouro_restart::parent::{self, Parent, Part, PeerId};
use ouro_restart::{
    Blob, Connection, Deadlines, Frame, Identity, Listener, listen_sockets_reply, state_reply, totals_reply,
};

const RESTART_SOCKET: &str = "restart";

fn identity() -> Identity {
    Identity::new("1.0", 1, 4)
}

/// A process, as far as restarts go.
struct Process {
    started: Instant,
    address: Address,
    up: Child,
    link: Option<Connection>,
    /// A question whether somebody serves.
    probe: Option<Connection>,
    down: Option<Parent>,
    peers: HashMap<PeerId, Connection>,
    next_peer: PeerId,
    listener: Option<Listener>,
    sockets: Vec<(ListenSocket, OwnedFd)>,
    /// Descriptors of the frame that is being handled.
    fds: Vec<OwnedFd>,
    state: Vec<Blob>,
    accepts: bool,
    serves: bool,
    failed: Option<String>,
    exited: bool,
}

impl Process {
    fn start(address: &Address, epoch: Option<u32>) -> Self {
        let options = child::Options {
            epoch,
            cold_without_parent: false,
            totals: true,
            live: false,
            drain_ms: 1000,
            parent_shutdown_ms: 2000,
        };
        let mut process = Self {
            started: Instant::now(),
            address: address.clone(),
            up: Child::new(identity(), options, Deadlines { check_ms: 200, ..Deadlines::default() }),
            link: None,
            probe: None,
            down: None,
            peers: HashMap::new(),
            next_peer: 1,
            listener: None,
            sockets: Vec::new(),
            fds: Vec::new(),
            state: vec![Blob { name: "runtime".to_owned(), bytes: vec![1; 150_000] }],
            accepts: false,
            serves: false,
            failed: None,
            exited: false,
        };
        process.up(child::Event::Start);
        process
    }

    /// Binds so many TCP sockets.
    fn listen(&mut self, count: u32) -> Vec<SocketAddr> {
        let bind = |worker| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let bound_address = address.to_string();
            let described = ListenSocket { bound_address, worker, ..ListenSocket::default() };
            self.sockets.push((described, listener.into()));
            address
        };
        (0..count).map(bind).collect()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    /// Does whatever can be done now; frames come before the timer.
    fn turn(&mut self) {
        while let Some(event) = self.next_from_above() {
            self.up(event);
        }
        if let Some(probe) = &mut self.probe
            && let Ok(Some(_)) = probe.receive()
        {
            self.probe = None;
            self.up(child::Event::SomebodyServes(true));
        }
        if self.serves
            && let Some(Ok(Some(connection))) = self.listener.as_ref().map(Listener::accept)
        {
            let peer = self.next_peer;
            self.next_peer += 1;
            self.peers.insert(peer, connection);
            self.down(parent::Event::PeerConnected { peer });
        }
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            while let Some(event) = self.next_from_below(peer) {
                self.down(event);
            }
        }
        if self.up.deadline().is_some_and(|at| at <= self.now()) {
            self.up(child::Event::Timer);
        }
        if self.down.as_ref().and_then(Parent::deadline).is_some_and(|at| at <= self.now()) {
            self.down(parent::Event::Timer);
        }
    }

    fn next_from_above(&mut self) -> Option<child::Event> {
        let link = self.link.as_mut()?;
        match link.flush().and_then(|_| link.receive()) {
            Ok(None) => None,
            Ok(Some(received)) => {
                self.fds = received.fds;
                Some(child::Event::Frame { frame: received.frame, fds: self.fds.len() })
            }
            Err(error) => {
                self.link = None;
                Some(child::Event::ParentGone { why: error.to_string() })
            }
        }
    }

    fn next_from_below(&mut self, peer: PeerId) -> Option<parent::Event> {
        let connection = self.peers.get_mut(&peer)?;
        match connection.flush().and_then(|_| connection.receive()) {
            Ok(None) => None,
            Ok(Some(received)) => {
                Some(parent::Event::Frame { peer, frame: received.frame, fds: received.fds.len() })
            }
            Err(error) => {
                self.peers.remove(&peer);
                Some(parent::Event::PeerGone { peer, why: error.to_string() })
            }
        }
    }

    fn up(&mut self, event: child::Event) {
        let now = self.now();
        for action in self.up.handle(now, event) {
            match action {
                child::Action::Connect => match Connection::connect(&self.address) {
                    Ok(connection) => {
                        self.link = Some(connection);
                        self.up(child::Event::Connected);
                    }
                    Err((failure, why)) => self.up(child::Event::ConnectFailed { failure, why }),
                },
                // That it cannot be sent is seen again when receiving.
                child::Action::Send(frame) => drop(self.link.as_mut().map(|link| link.send(&frame, &[]))),
                child::Action::Close => self.link = None,
                child::Action::AdoptListenSockets(sockets) => {
                    let fds = std::mem::take(&mut self.fds);
                    for (socket, fd) in sockets.into_iter().zip(fds) {
                        if socket.purpose == RESTART_SOCKET {
                            self.listener = Some(Listener::adopt(fd, self.address.clone()));
                        } else {
                            self.sockets.push((socket, fd));
                        }
                    }
                }
                child::Action::AdoptState { blobs, .. } => assert!(blobs == self.state),
                child::Action::Prepare { .. } => {
                    if self.listener.is_none() {
                        self.listener = Some(Listener::bind(&self.address, 0o600).unwrap());
                    }
                    self.accepts = true;
                    self.up(child::Event::WorkersAccepting { workers: 1, released: Vec::new() });
                }
                child::Action::CheckService { .. } => match Connection::connect(&self.address) {
                    Ok(mut probe) => {
                        let hello = ouro_restart::message::Hello { probe: true, ..identity().hello() };
                        probe.send(&Frame::new(1, hello), &[]).unwrap();
                        self.probe = Some(probe);
                    }
                    Err(_) => self.up(child::Event::SomebodyServes(false)),
                },
                child::Action::TakeOver { epoch } => {
                    self.listener.as_ref().unwrap().claim().unwrap();
                    let mut machine = Parent::new(identity(), epoch, Deadlines::default());
                    machine.set_elder(self.link.is_some());
                    self.down = Some(machine);
                    self.serves = true;
                }
                child::Action::ParentEnded => {
                    if let Some(machine) = &mut self.down {
                        machine.set_elder(false);
                    }
                }
                child::Action::Fail { why } => self.failed = Some(why),
                child::Action::AdoptTotals { .. }
                | child::Action::TakeParcel { .. }
                | child::Action::Log(..) => {}
            }
        }
    }

    fn down(&mut self, event: parent::Event) {
        let now = self.now();
        let Some(machine) = &mut self.down else { return };
        for action in machine.handle(now, event) {
            match action {
                parent::Action::Send { peer, frame } => {
                    drop(self.peers.get_mut(&peer).map(|peer| peer.send(&frame, &[])));
                }
                parent::Action::SendPart { peer, request_id, part, cursor } => {
                    self.send_part(peer, request_id, part, cursor);
                }
                parent::Action::Close { peer } => drop(self.peers.remove(&peer)),
                parent::Action::StopAccepting { .. } => {
                    self.up(child::Event::Superseded(Some(0)));
                    (self.accepts, self.serves) = (false, false);
                    self.down(parent::Event::AcceptStopped);
                }
                parent::Action::ResumeAccepting => {
                    (self.accepts, self.serves) = (true, true);
                    self.listener.as_ref().unwrap().claim().unwrap();
                    self.up(child::Event::Superseded(None));
                }
                parent::Action::BeginDrain { .. } => self.down(parent::Event::ConnectionsLeft(3)),
                parent::Action::Exit { .. } => self.exited = true,
                parent::Action::CheckService
                | parent::Action::AttemptFailed { .. }
                | parent::Action::CloseListeners
                | parent::Action::ParcelsAnswered(_)
                | parent::Action::Log(..) => {}
            }
        }
    }

    fn send_part(&mut self, peer: PeerId, request_id: u32, part: Part, cursor: u64) {
        let restart = ListenSocket { purpose: RESTART_SOCKET.to_owned(), ..ListenSocket::default() };
        let listener = self.listener.as_ref().unwrap();
        let all: Vec<(&ListenSocket, BorrowedFd<'_>)> = std::iter::once((&restart, listener.as_fd()))
            .chain(self.sockets.iter().map(|(socket, fd)| (socket, fd.as_fd())))
            .collect();
        let described: Vec<ListenSocket> = all.iter().map(|(socket, _)| (*socket).clone()).collect();
        let (message, range) = match part {
            Part::ListenSockets => {
                let (reply, range) = listen_sockets_reply(&described, cursor);
                (reply.into(), range)
            }
            Part::State => (ouro_restart::message::Message::from(state_reply(&self.state, cursor)), 0..0),
            Part::Totals => (totals_reply(&[], cursor).into(), 0..0),
        };
        let fds: Vec<BorrowedFd<'_>> = all[range].iter().map(|(_, fd)| *fd).collect();
        drop(self.peers.get_mut(&peer).unwrap().send(&Frame::new(request_id, message), &fds));
    }
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> (Self, Address) {
        let path = std::env::temp_dir().join(format!("ouro-takeover-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        prepare_directory(&path, rustix::process::geteuid().as_raw()).unwrap();
        let address = Address::in_directory(&path, 4);
        (Self(path), address)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Turns of all processes until something is so.
#[track_caller]
fn until(processes: &mut [&mut Process], done: impl Fn(&[&mut Process]) -> bool) {
    let begun = Instant::now();
    while !done(processes) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not happen");
        for process in processes.iter_mut() {
            process.turn();
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_thousand_listeners_move_with_what_is_in_their_queues() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).unwrap();
    if limit.maximum.is_some_and(|maximum| maximum < 4096) {
        println!("skipped: not enough descriptors are allowed here");
        return;
    }
    let (_directory, address) = Directory::new("thousand");
    let mut old = Process::start(&address, Some(0));
    let addresses = old.listen(1000);
    assert!(old.serves);
    let waiting: Vec<TcpStream> =
        addresses.iter().step_by(100).map(|address| TcpStream::connect(address).unwrap()).collect();

    let begun = Instant::now();
    let mut new = Process::start(&address, Some(1));
    until(&mut [&mut old, &mut new], |processes| processes[1].serves);
    println!("{} listening sockets: {:?} from start to service", addresses.len(), begun.elapsed());
    assert!(!old.accepts && !old.exited);
    drop(old);
    assert_eq!(new.sockets.len(), 1000);
    for (number, mut client) in waiting.into_iter().enumerate() {
        let (socket, fd) = &new.sockets[number * 100];
        assert_eq!(socket.bound_address, addresses[number * 100].to_string());
        let listener = TcpListener::from(fd.try_clone().unwrap());
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"x").unwrap();
        std::io::Read::read_exact(&mut client, &mut [0]).unwrap();
    }
    for address in &addresses {
        TcpStream::connect(address).unwrap();
    }
}

#[test]
fn generations_follow_each_other_and_the_death_of_one_wakes_the_one_before() {
    let (_directory, address) = Directory::new("generations");
    let mut first = Process::start(&address, Some(0));
    first.listen(3);
    let mut second = Process::start(&address, None);
    until(&mut [&mut first, &mut second], |processes| processes[1].serves);
    let mut third = Process::start(&address, None);
    until(&mut [&mut first, &mut second, &mut third], |processes| processes[2].serves);
    assert_eq!((first.accepts, second.accepts, third.accepts), (false, false, true));
    drop(third);
    until(&mut [&mut first, &mut second], |processes| processes[1].accepts);
    let mut fourth = Process::start(&address, Some(2));
    until(&mut [&mut first, &mut second, &mut fourth], |processes| processes[2].serves);
    // Their time is up after two seconds, and they go.
    until(&mut [&mut first, &mut second, &mut fourth], |processes| {
        processes[0].exited && processes[1].exited
    });
    assert!(fourth.serves && fourth.failed.is_none());
}

#[test]
fn the_death_of_a_parent_in_the_middle_does_not_matter_but_an_elder_goes_first() {
    let (_directory, address) = Directory::new("death");
    let mut first = Process::start(&address, Some(0));
    first.listen(500);
    let mut second = Process::start(&address, None);
    // Some sockets have come over.
    until(&mut [&mut first, &mut second], |processes| processes[1].sockets.len() > 100);
    drop(first);
    until(&mut [&mut second], |processes| processes[0].serves);
    assert!(second.failed.is_none());

    let mut third = Process::start(&address, None);
    until(&mut [&mut second, &mut third], |processes| processes[1].serves);
    let mut fourth = Process::start(&address, None);
    until(&mut [&mut second, &mut third, &mut fourth], |processes| processes[2].sockets.len() > 100);
    drop(third);
    until(&mut [&mut second, &mut fourth], |processes| processes[0].accepts && processes[1].failed.is_some());
    assert!(fourth.failed.unwrap().contains("another one serves"));
}
