//! Moments that are short: a head that waits for its small body, and what a reader of the counters sees while
//! connections move.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ouro::proxy::SessionParcel;
use ouro_restart::Frame;
use ouro_restart::message::{Message, ParcelReply, RefusedParcel};
use prost::Message as _;

use crate::chain::{Chain, End, Origin};
use crate::failures::{chain, committed, work};
use crate::support::stats::expect_nothing_active;
use crate::support::{Config, Stats, eventually};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";

/// Connections whose requests wait for their responses.
fn waiting(count: usize) -> (Chain, Vec<End>, Vec<End>) {
    let origin = Origin::new();
    let chain = Chain::http(Config::to([origin.addr()]));
    let pairs = (0..count).map(|_| {
        let client = chain.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut far = origin.accept();
        far.head();
        (client, far)
    });
    let (clients, fars) = pairs.unzip();
    (chain, clients, fars)
}

/// Sends the heads of responses, one every now and then, until there is no more or somebody says that it is enough.
fn trickle(fars: &[End], enough: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let sockets: Vec<_> = fars.iter().map(|far| Arc::clone(far.wire.socket())).collect();
    let enough = Arc::clone(enough);
    std::thread::spawn(move || {
        for (sent, socket) in sockets.iter().enumerate() {
            if enough.load(Ordering::Relaxed) {
                return sent;
            }
            socket.send_all(HEAD.as_bytes()).unwrap();
            std::thread::park_timeout(Duration::from_micros(150));
        }
        sockets.len()
    })
}

#[track_caller]
fn finish(clients: Vec<End>, fars: Vec<End>, heads: usize) {
    for (at, (mut client, far)) in clients.into_iter().zip(fars).enumerate() {
        far.send(if at < heads { "hello".to_owned() } else { format!("{HEAD}hello") });
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{at}: {head}");
        client.expect("hello");
    }
}

#[test]
fn heads_that_wait_for_a_small_body_move() {
    for _ in 0..4 {
        let (mut chain, clients, fars) = waiting(120);
        let enough = Arc::new(AtomicBool::new(false));
        let next = chain.instance.spawn("auto", "");
        chain.newest.wait_log("takes over as restart epoch");
        let trickling = trickle(&fars, &enough);
        next.wait_log("ready pid=");
        chain.newest.expect_exit(0, "stopped");
        enough.store(true, Ordering::Relaxed);
        chain.newest = next;
        let heads = trickling.join().unwrap();
        println!("{heads} heads around the restart");
        finish(clients, fars, heads);
        expect_nothing_active(chain.instance.base_id());
    }
}

/// The same moment is hit so often that some heads are part of what moves; the other process says no, and nothing is lost.
#[test]
fn heads_that_wait_for_a_small_body_are_packed_and_go_on() {
    let mut held = 0;
    for _ in 0..20 {
        let (chain, clients, fars) = waiting(60);
        let enough = Arc::new(AtomicBool::new(false));
        let trickling = trickle(&fars, &enough);
        let (peer, mut channel) = committed(&chain);
        let mut refused = 0;
        eventually("all come", || {
            let _ = channel.wait(20);
            while let Ok(Some(received)) = channel.receive() {
                let Message::ConnectionParcel(parcel) = received.frame.message else { continue };
                let session = SessionParcel::decode(&*parcel.bytes).unwrap();
                let response = session.http.and_then(|http| http.exchange?.response);
                held += usize::from(response.is_some_and(|response| response.held.is_some()));
                let no = RefusedParcel { id: parcel.id, reason: "not now".into(), code: 0 };
                let reply = ParcelReply { accepted: Vec::new(), refused: vec![no] };
                channel.send(&Frame::new(0, reply), &[]).unwrap();
                refused += 1;
            }
            refused == clients.len()
        });
        enough.store(true, Ordering::Relaxed);
        let heads = trickling.join().unwrap();
        drop((peer, channel));
        finish(clients, fars, heads);
        if held > 0 {
            println!("{held} heads were held");
            return;
        }
    }
    panic!("no head was held at the moment of a move");
}

/// Totals are exact whenever they are read; gauges before and after a move. In the middle of it a gauge may be off by the
/// connections that move while it is read, because it is a sum over two processes.
#[test]
fn the_sums_over_both_processes_are_right_all_through_a_move() {
    const COUNT: u64 = 200;
    const NAMES: [&str; 4] = [
        "tcp.web.downstream_cx_active",
        "listener.web.downstream_cx_active",
        "cluster.origin.upstream_cx_active",
        "tcp.web.downstream_cx_total",
    ];
    let (mut chain, _origin, mut all) = chain(COUNT as usize);
    let (most, least) =
        (Arc::new([const { AtomicU64::new(0) }; 4]), Arc::new([const { AtomicU64::new(u64::MAX) }; 4]));
    let done = Arc::new(AtomicBool::new(false));
    let sampler = {
        let (most, least, done) = (Arc::clone(&most), Arc::clone(&least), Arc::clone(&done));
        let segment = ouro_shm::Segment::attach_existing(chain.instance.base_id().0).unwrap();
        std::thread::spawn(move || {
            let mut samples = 0;
            while !done.load(Ordering::Relaxed) {
                let stats = Stats(segment.snapshot(&ouro_shm::ReadOptions { shares_of: Vec::new() }));
                for (at, name) in NAMES.iter().enumerate() {
                    most[at].fetch_max(stats.get(name), Ordering::Relaxed);
                    least[at].fetch_min(stats.get(name), Ordering::Relaxed);
                }
                samples += 1;
            }
            samples
        })
    };
    let begun = Instant::now();
    for _ in 0..20 {
        chain.restart();
    }
    done.store(true, Ordering::Relaxed);
    let samples = sampler.join().unwrap();
    println!("{samples} samples in {:?}", begun.elapsed());
    for (at, name) in NAMES.iter().enumerate() {
        let (least, most) = (least[at].load(Ordering::Relaxed), most[at].load(Ordering::Relaxed));
        println!("{name}: {least} to {most}");
        if name.ends_with("_total") {
            assert_eq!((least, most), (COUNT, COUNT), "{name}");
        }
    }
    for name in NAMES {
        assert_eq!(Stats::of(chain.instance.base_id()).get(name), COUNT, "{name}");
    }
    work(&mut all);
}
