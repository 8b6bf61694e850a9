//! The whole engine over loopback, against servers that behave and servers that don't.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::{Engine, EngineOptions, Failure, Finished, STALL_NS, Shared};
use crate::cores::CoreList;
use crate::echo::{Echo as EchoServer, EchoOptions};
use crate::protocol::{Echo, Memcache, Protocol};
use crate::work::{Beside, BesideOptions, KeySpace, Mix, MixOptions, Routes, SizeRange, Work};

/// Bytes of a value that takes several sends.
const BESIDE_BYTES: usize = 300_000;
const CONNECTIONS: usize = 3;

fn options(requests: u64) -> EngineOptions {
    EngineOptions {
        depth: 4,
        rate: None,
        warmup_ns: 0,
        duration_ns: None,
        requests: Some(requests),
        sleeps: false,
        reply_bytes: 64,
        stall_ns: STALL_NS,
    }
}

fn run(server: SocketAddr, protocol: Protocol, options: EngineOptions) -> Finished<Mix> {
    run_work(server, protocol, options, mix())
}

fn run_work<W: Work>(server: SocketAddr, protocol: Protocol, options: EngineOptions, work: W) -> Finished<W> {
    let streams = (0..CONNECTIONS).map(|_| TcpStream::connect(server).expect("connected")).collect();
    Engine::new(streams, protocol, work, options)
        .expect("a ring")
        .run(&Arc::new(Shared::default()))
        .expect("no ring error")
}

fn mix() -> Mix {
    let options = MixOptions {
        keys: KeySpace::new(100, 16).expect("valid"),
        zipf: 0.0,
        value_bytes: SizeRange { least: 8, most: 8 },
        set_ratio: 0.0,
        delete_ratio: 0.0,
        increment_ratio: 0.0,
        ttl_ms: 0,
        multi_get: 1,
        seed: 1,
    };
    Mix::new(options, Routes::anywhere(CONNECTIONS), 0)
}

/// A server on a thread of its own, which ends when all its connections have ended.
fn serve(each: fn(TcpStream)) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = thread::spawn(move || {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|_| listener.accept().expect("a connection").0)
            .map(|stream| thread::spawn(move || each(stream)))
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
    (address, server)
}

#[test]
fn every_request_is_answered_once_by_the_echo() {
    for (request_bytes, reply_bytes) in [(32, 88), (1, 1), (40_000, 3), (24, 300_000)] {
        let echo = EchoServer::bind(EchoOptions {
            from_bytes: None,
            listen: "127.0.0.1:0".parse().expect("an address"),
            cores: CoreList(vec![0]),
            request_bytes,
            reply_bytes,
            // Long enough for the slowest machine: the echo is not waited for.
            duration: Some(std::time::Duration::from_secs(60)),
        });
        let echo = echo.expect("a free port");
        let address = echo.address().expect("bound");
        thread::spawn(move || echo.serve());
        let finished = run(address, Protocol::Echo(Echo { request_bytes, reply_bytes }), options(2000));
        assert!(finished.failure.is_none(), "{:?}", finished.failure);
        assert_eq!((finished.recorder.tally.answered, finished.unanswered), (2000, 0));
        assert_eq!(finished.recorder.reads.len(), 2000);
        assert_eq!(finished.recorder.tally.value_bytes_read, 2000 * reply_bytes as u64);
    }
}

#[test]
fn a_generator_that_sleeps_gets_every_answer_and_sees_its_end() {
    let (server, thread) = serve(answer_misses);
    let finished = run(server, Protocol::Memcache(Memcache), EngineOptions { sleeps: true, ..options(2000) });
    assert!(finished.failure.is_none(), "{:?}", finished.failure);
    assert_eq!((finished.recorder.tally.answered, finished.unanswered), (2000, 0));
    thread.join().expect("ended");
    let (server, thread) = serve(|mut stream| while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {});
    let stalls = EngineOptions { sleeps: true, stall_ns: 50_000_000, ..options(100) };
    let finished = run(server, Protocol::Memcache(Memcache), stalls);
    assert!(matches!(finished.failure, Some(Failure::Stalled { .. })), "{:?}", finished.failure);
    drop(finished);
    thread.join().expect("ended");
}

#[test]
fn big_values_go_on_beside_and_are_counted_apart() {
    // Every set is the request's first line, and every line is answered with a miss or, for a set, with STORED.
    let (server, thread) = serve(|stream| {
        let mut lines = BufReader::new(stream.try_clone().expect("a second handle"));
        let (mut stream, mut line) = (stream, Vec::new());
        while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            let mut answer = &b"END\r\n"[..];
            if line.starts_with(b"set ") {
                let mut value = vec![0; BESIDE_BYTES + 2];
                lines.read_exact(&mut value).expect("the value");
                answer = b"STORED\r\n";
            }
            line.clear();
            if stream.write_all(answer).is_err() {
                break;
            }
        }
    });
    let keys = KeySpace::new(100, 16).expect("valid");
    let beside = BesideOptions { value_bytes: BESIDE_BYTES as u32, keys, seed: 1 };
    let work = Beside::new(mix(), &beside, 0, CONNECTIONS - 1);
    let finished = run_work(server, Protocol::Memcache(Memcache), options(3000), work);
    assert!(finished.failure.is_none(), "{:?}", finished.failure);
    let tally = &finished.recorder.tally;
    assert!(tally.aside_bytes >= 2 * BESIDE_BYTES as u64, "more than one value has gone: {}", tally.aside_bytes);
    assert_eq!(tally.aside_bytes % BESIDE_BYTES as u64, 0);
    assert_eq!(tally.answered, finished.recorder.reads.len(), "what goes on beside is in no figure");
    drop(finished);
    thread.join().expect("ended");
}

#[test]
fn an_open_loop_sends_at_its_rate_and_not_before() {
    let (server, thread) = serve(answer_misses);
    let rate = 20_000.0;
    let finished = run(server, Protocol::Memcache(Memcache), EngineOptions { rate: Some(rate), ..options(1000) });
    assert!(finished.failure.is_none(), "{:?}", finished.failure);
    assert_eq!(finished.recorder.tally.answered, 1000);
    // The last of a thousand requests is due 49.95 ms after the first, however fast the server is.
    assert!(finished.measured_ns >= 49_950_000, "{}", finished.measured_ns);
    thread.join().expect("ended");
}

fn answer_misses(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let requests = buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
        if stream.write_all(&b"END\r\n".repeat(requests)).is_err() {
            break;
        }
    }
}

#[test]
fn a_server_that_closes_in_the_middle_ends_the_run() {
    let (server, thread) = serve(|mut stream| {
        let mut buffer = [0; 64];
        let _ = stream.read(&mut buffer);
        let _ = stream.write_all(b"END\r\n");
        let _ = stream.shutdown(Shutdown::Both);
    });
    let finished = run(server, Protocol::Memcache(Memcache), options(1_000_000));
    assert!(
        matches!(finished.failure, Some(Failure::Closed { .. } | Failure::Broken { .. })),
        "{:?}",
        finished.failure
    );
    assert!(finished.unanswered > 0);
    thread.join().expect("ended");
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let (server, thread) = serve(|mut stream| {
        // Reads until the generator goes away.
        let mut buffer = [0; 4096];
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    });
    let finished = run(server, Protocol::Memcache(Memcache), EngineOptions { stall_ns: 50_000_000, ..options(100) });
    assert!(matches!(finished.failure, Some(Failure::Stalled { unanswered: 12, .. })), "{:?}", finished.failure);
    assert_eq!(finished.unanswered, 12);
    drop(finished);
    thread.join().expect("ended");
}

#[test]
fn a_server_of_another_protocol_is_named() {
    let (server, thread) = serve(|mut stream| {
        let mut buffer = [0; 64];
        let _ = stream.read(&mut buffer);
        let _ = stream.write_all(b"-ERR unknown command\r\n");
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    });
    let finished = run(server, Protocol::Memcache(Memcache), options(100));
    let Some(Failure::Protocol { error, .. }) = finished.failure else { panic!("{:?}", finished.failure) };
    assert!(error.to_string().contains("-ERR unknown command"), "{error}");
    thread.join().expect("ended");
}
