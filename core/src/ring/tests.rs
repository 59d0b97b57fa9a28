//! The runtime against real sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use super::*;
use crate::base::clock::NEVER;

fn ring() -> Ring {
    Ring::new(4096, 64 * 4096, 0, &probe().unwrap()).unwrap()
}

/// Echoes what comes on one accepted connection until its end, then ends itself.
async fn echo(ring: Ring, listener: OwnedFd) {
    let acceptor = ring.listen(listener, ring.current_task());
    let fd = loop {
        match acceptor.take() {
            Some(fd) => break fd.unwrap(),
            None => ring.wait(NEVER).await,
        }
    };
    let socket = ring.adopt(fd);
    socket.attach(ring.current_task());
    loop {
        let status = socket.status();
        assert_eq!((status.recv_error, status.send_error), (0, 0));
        if status.unsent > 0 {
            socket.wake_when_unsent_below(Some(0));
        } else if let Some(chunk) = socket.receive() {
            socket.send(chunk);
            continue;
        } else if status.eof {
            return;
        }
        ring.wait(NEVER).await;
    }
}

#[test]
fn bytes_come_back_in_order_through_a_pool_that_is_too_small() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let client = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            for piece in sent.chunks(7919) {
                writer.write_all(piece).unwrap();
            }
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        { &stream }.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        back
    });
    let ring = ring();
    ring.run(echo(ring.clone(), listener.into())).unwrap();
    assert!(client.join().unwrap() == expected);
    let stats = ring.stats();
    assert_eq!(stats.buffers_in_use, 0, "every buffer is back");
}

/// Whoever is to hand a socket over waits until nothing is in flight on it, also if it fails meanwhile: its last completion brings
/// nothing then, but it is the last.
#[test]
fn a_socket_that_fails_while_it_is_stopped_tells_when_it_is_still() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let ring = ring();
    let inner = ring.clone();
    ring.run(async move {
        let socket = inner.adopt(OwnedFd::from(ours));
        socket.attach(inner.current_task());
        // A turn in which its recv is put in flight.
        inner.wait(inner.now() + 1).await;
        assert!(!socket.is_still());
        socket.freeze();
        inner.shared.driver.borrow_mut().sockets.get_mut(socket.id).unwrap().recv_error = libc::ENOBUFS;
        let deadline = inner.now() + 10_000;
        while !socket.is_still() {
            inner.wait(deadline).await;
        }
        assert!(inner.now() < deadline, "nobody has told");
    })
    .unwrap();
}

/// Sockets on which much is sent are registered with the ring: the bytes are the same, and so is the end, which a place in the
/// table would put off. Those that come one after the other get the same place.
#[test]
fn a_registered_socket_sends_and_ends_like_any_other() {
    const MESSAGES: usize = 3 * limits::SENDS_BEFORE_REGISTERED;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut capabilities = probe().unwrap();
    assert!(capabilities.registered_files || !setup::is_at_least(&capabilities.kernel, 6, 13));
    for registered_files in [capabilities.registered_files, false] {
        capabilities.registered_files = registered_files;
        let client = std::thread::spawn(move || {
            for _ in 0..5 {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                for n in (0..=u8::MAX).cycle().take(MESSAGES) {
                    let message = [n; 100];
                    stream.write_all(&message).unwrap();
                    let mut back = [0; 100];
                    stream.read_exact(&mut back).unwrap();
                    assert!(back == message);
                }
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
            }
        });
        let ring = Ring::new(4096, 64 * 4096, 0, &capabilities).unwrap();
        let inner = ring.clone();
        let listener = OwnedFd::from(listener.try_clone().unwrap());
        ring.run(async move {
            for n in 0..5 {
                echo(inner.clone(), listener.try_clone().unwrap()).await;
                // The same place each time, as soon as the one before is closed.
                assert_eq!(inner.shared.driver.borrow().files_used(), u16::from(registered_files), "{n}");
            }
        })
        .unwrap();
        client.join().unwrap();
    }
}

#[test]
fn a_deadline_wakes_a_task_that_nothing_else_wakes() {
    let ring = ring();
    let inner = ring.clone();
    let start = Instant::now();
    ring.run(async move { inner.wait(inner.now() + 30).await }).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(29), "{:?}", start.elapsed());
}

#[test]
fn a_refused_connection_says_so_and_a_dropped_one_is_joined() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = SockAddr::from(listener.local_addr().unwrap());
    drop(listener);
    let ring = ring();
    let inner = ring.clone();
    ring.run(async move {
        let open = || {
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                .map(OwnedFd::from)
                .unwrap()
        };
        drop(inner.connect(open(), &address));
        let socket = inner.connect(open(), &address);
        socket.attach(inner.current_task());
        while socket.status().link == Link::Connecting {
            inner.wait(NEVER).await;
        }
        assert_eq!(socket.status().link, Link::Failed(libc::ECONNREFUSED));
    })
    .unwrap();
}

#[test]
fn messages_from_another_thread_arrive_in_order() {
    let (sender, unbound) = mailbox::mailbox::<u32>().unwrap();
    let thread = std::thread::spawn(move || {
        for n in 0..10_000 {
            let mut message = n;
            while let Err(back) = sender.send(message) {
                message = back;
                std::thread::yield_now();
            }
        }
    });
    let ring = ring();
    let inner = ring.clone();
    ring.run(async move {
        let mailbox = unbound.bind(&inner, inner.current_task());
        let mut next = 0;
        while next < 10_000 {
            match mailbox.take() {
                Some(n) => {
                    assert_eq!(n, next);
                    next += 1;
                }
                None => inner.wait(NEVER).await,
            }
        }
    })
    .unwrap();
    thread.join().unwrap();
}

#[test]
fn a_reader_that_does_not_read_cannot_hold_more_than_its_quota() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        // Fill the pipe until nobody takes more for a while.
        let mut quiet = 0;
        while quiet < 50 {
            match stream.write(&[7; 65536]) {
                Ok(_) => quiet = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    quiet += 1;
                    std::thread::sleep(Duration::from_millis(2)); // polling the other thread's progress
                }
                Err(error) => panic!("{error}"),
            }
        }
        stream
    });
    let capabilities = probe().unwrap();
    let ring = Ring::new(4096, 1024 * 4096, 0, &capabilities).unwrap();
    let inner = ring.clone();
    ring.run(async move {
        let acceptor = inner.listen(listener.into(), inner.current_task());
        let fd = loop {
            match acceptor.take() {
                Some(fd) => break fd.unwrap(),
                None => inner.wait(NEVER).await,
            }
        };
        let socket = inner.adopt(fd);
        socket.attach(inner.current_task());
        while !client.is_finished() {
            inner.wait(inner.now() + 5).await;
            // Without a limit one multishot recv may bring up to 32 buffers more before it sees the cancellation.
            let over = if capabilities.recv_limit { 1 } else { 64 };
            let held = inner.stats().buffers_in_use;
            assert!(held <= limits::SOCKET_BUFFER_QUOTA as usize + over, "{held} buffers held");
        }
        drop(client.join().unwrap());
        let mut total = 0;
        while !socket.status().is_eof() {
            match socket.receive() {
                Some(chunk) => total += chunk.len(),
                None => inner.wait(NEVER).await,
            }
        }
        assert!(total > 100_000);
    })
    .unwrap();
}

#[test]
fn an_end_behind_what_was_lost_is_none() {
    let status = Status {
        link: Link::Connected,
        unread: 0,
        eof: true,
        recv_error: 0,
        send_error: 0,
        unsent: 0,
        activity: 0,
    };
    assert!(status.is_eof() && !status.is_reset());
    // As after a cut-off for want of buffers, which drops what waited before the end.
    let cut_off = Status { recv_error: libc::ENOBUFS, ..status };
    assert!(!cut_off.is_eof() && cut_off.is_reset());
    assert!(!Status { unread: 1, ..status }.is_eof());
}

/// Whoever keeps a buffer without need gives way when another waits for one, and what came of its stream after the
/// gap is never seen.
#[test]
fn a_socket_that_starves_others_is_cut_off_for_good() {
    const SOCKETS: usize = limits::INITIAL_RECEIVE_BUFFERS + 4;
    let ring = ring();
    let inner = ring.clone();
    ring.run(async move {
        let (peers, sockets): (Vec<_>, Vec<_>) = (0..SOCKETS)
            .map(|_| {
                let (mut peer, ours) = std::os::unix::net::UnixStream::pair().unwrap();
                peer.write_all(b"first").unwrap();
                let socket = inner.adopt(ours.into());
                socket.attach(inner.current_task());
                (peer, socket)
            })
            .unzip();
        let is_cut_off = |socket: &Socket| socket.status().recv_error == libc::ENOBUFS;
        // Everybody has been served once as many were cut off as there were too few buffers.
        let deadline = inner.now() + 8_000;
        while sockets.iter().any(|s| s.status().unread == 0 && !is_cut_off(s)) && inner.now() < deadline {
            inner.wait(inner.now() + 50).await;
        }
        let cut: Vec<usize> = (0..SOCKETS).filter(|n| is_cut_off(&sockets[*n])).collect();
        assert_eq!((cut.len(), inner.stats().cut_off), (4, 4));
        assert!(sockets.iter().all(|s| is_cut_off(s) || s.status().unread == 5));
        // There is room again, and the peers go on: those that were cut off stay so.
        sockets.iter().for_each(|socket| drop(socket.receive()));
        for mut peer in peers.iter() {
            let _ = peer.write_all(b"second");
        }
        while sockets.iter().any(|s| s.status().unread == 0 && !is_cut_off(s)) && inner.now() < deadline {
            inner.wait(inner.now() + 50).await;
        }
        for (n, socket) in sockets.iter().enumerate() {
            assert_eq!(socket.status().unread, if cut.contains(&n) { 0 } else { 6 }, "socket {n}");
        }
        // An end that is asked for now would say that nothing is missing.
        sockets.iter().for_each(Socket::shutdown_write);
        inner.wait(inner.now() + 1).await;
        for (n, mut peer) in peers.iter().enumerate() {
            peer.set_nonblocking(true).unwrap();
            let seen = peer.read(&mut [0; 10]).map_err(|error| error.kind());
            let expected = if cut.contains(&n) { Err(io::ErrorKind::WouldBlock) } else { Ok(0) };
            assert_eq!(seen, expected, "socket {n}");
        }
    })
    .unwrap();
}

/// Segments that have been sent on a connection (`tcpi_segs_out` of `struct tcp_info`, linux/tcp.h).
fn segments_sent(stream: &TcpStream) -> u32 {
    const OFFSET: usize = 136;
    let mut info = [0_u8; 256];
    let mut len = 256;
    // SAFETY: the buffer has the length that is given, and the kernel writes no more than that.
    let failed = unsafe {
        let info = info.as_mut_ptr().cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut len)
    };
    assert!(failed == 0 && len as usize >= OFFSET + 4);
    u32::from_ne_bytes(info[OFFSET..OFFSET + 4].try_into().unwrap())
}

#[test]
fn the_last_bytes_and_the_end_leave_together() {
    for pieces in [1, 3] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let same = accepted.try_clone().unwrap();
        let ring = ring();
        let inner = ring.clone();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            for _ in 0..pieces {
                client.write_all(b"piece").unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
            client.read_to_end(&mut all).unwrap();
            // Not before: its own end would be acknowledged.
            (client, all)
        });
        ring.run(async move {
            let socket = inner.adopt(accepted.into());
            socket.attach(inner.current_task());
            let mut chunks = Vec::new();
            while chunks.len() < pieces {
                let Some(mut chunk) = socket.receive() else {
                    inner.wait(NEVER).await;
                    continue;
                };
                socket.send(chunk.split_to(1));
                chunks.push(chunk);
            }
            while socket.status().unsent > 0 {
                socket.wake_when_unsent_below(Some(0));
                inner.wait(NEVER).await;
            }
            let before = segments_sent(&same);
            chunks.into_iter().for_each(|chunk| socket.send(chunk));
            socket.shutdown_write();
            while socket.status().unsent > 0 {
                inner.wait(NEVER).await;
            }
            assert_eq!(segments_sent(&same) - before, 1, "{pieces} pieces");
            let (_client, all) = reader.join().unwrap();
            assert_eq!(all, b"iece".repeat(pieces));
        })
        .unwrap();
    }
}

/// A FIN in front of it would be all that a peer sees.
#[test]
fn a_reset_is_not_announced_by_an_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let ring = ring();
    let inner = ring.clone();
    ring.run(async move {
        let socket = inner.adopt(accepted.into());
        socket.shutdown_write();
        socket.reset();
    })
    .unwrap();
    let seen = client.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(seen, Err(io::ErrorKind::ConnectionReset));
}

/// Nobody could do anything about the buffers that were held meanwhile.
#[test]
fn who_gets_no_cpu_cuts_nobody_off_for_that() {
    let ring = ring();
    let inner = ring.clone();
    ring.run(async move {
        let sockets: Vec<_> = (0..=limits::INITIAL_RECEIVE_BUFFERS)
            .map(|_| {
                let (mut peer, ours) = std::os::unix::net::UnixStream::pair().unwrap();
                peer.write_all(b"first").unwrap();
                (peer, inner.adopt(ours.into()))
            })
            .collect();
        while inner.stats().no_buffers == 0 {
            inner.wait(inner.now() + 1).await;
        }
        std::thread::sleep(Duration::from_millis(limits::STALLED_MS + 1)); // what a stopped process does
        inner.wait(inner.now() + 1).await;
        assert_eq!(inner.stats().cut_off, 0);
        drop(sockets);
    })
    .unwrap();
}

/// Bulk is received in portions that a cache can keep, so it needs no more buffers than there were at the start.
#[test]
fn bulk_from_many_does_not_go_through_all_of_the_memory() {
    const SOCKETS: usize = 16;
    const BYTES: usize = 2 << 20;
    let capabilities = probe().unwrap();
    let ring = Ring::new(64 << 10, 64 << 20, 0, &capabilities).unwrap();
    let inner = ring.clone();
    ring.run(async move {
        let (writers, sockets): (Vec<_>, Vec<_>) = (0..SOCKETS)
            .map(|_| {
                let (mut peer, ours) = std::os::unix::net::UnixStream::pair().unwrap();
                let writer = std::thread::spawn(move || peer.write_all(&vec![7; BYTES]).unwrap());
                let socket = inner.adopt(ours.into());
                socket.attach(inner.current_task());
                (writer, socket)
            })
            .unzip();
        let mut total = 0;
        while total < SOCKETS * BYTES {
            let before = total;
            for socket in &sockets {
                while let Some(chunk) = socket.receive() {
                    total += chunk.len();
                }
            }
            if total == before {
                inner.wait(NEVER).await;
            }
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(inner.stats().buffers, limits::INITIAL_RECEIVE_BUFFERS);
    })
    .unwrap();
}

/// Many connections with small messages have the ring wait for several of them. When all but one fall silent, that one goes on.
#[test]
fn dense_messages_are_waited_for_and_the_last_one_is_not_left_behind() {
    const PAIRS: usize = 64;
    const ROUND_TRIPS: u64 = 1_000;
    let ring = Ring::new(4096, 1024 * 4096, 1_000, &probe().unwrap()).unwrap();
    let inner = ring.clone();
    ring.run(async move {
        let sockets: Vec<Socket> = (0..PAIRS)
            .flat_map(|_| {
                let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
                [inner.adopt(one.into()), inner.adopt(other.into())]
            })
            .collect();
        sockets.iter().for_each(|socket| socket.attach(inner.current_task()));
        // Even ones begin, and whatever comes is sent back.
        let begin = |socket: &Socket| {
            let mut buf = inner.write_buf();
            buf.bytes.extend_from_slice(&[b'x'; 100]);
            socket.send(buf.freeze());
        };
        sockets.iter().step_by(2).for_each(begin);
        let deadline = inner.now() + 8_000;
        let mut goes_on = sockets.len();
        let mut received = 0;
        let mut left = ROUND_TRIPS;
        while left > 0 {
            assert!(inner.now() < deadline, "{left} left, {received} received, {:?}", inner.stats());
            inner.wait(deadline).await;
            for (index, socket) in sockets.iter().enumerate() {
                while let Some(chunk) = socket.receive() {
                    received += 1;
                    if index < goes_on {
                        socket.send(chunk);
                    }
                    if goes_on == 2 && index == 0 {
                        left = left.saturating_sub(1);
                    }
                }
            }
            if inner.stats().moderated > 100 {
                goes_on = 2;
            }
        }
    })
    .unwrap();
}
