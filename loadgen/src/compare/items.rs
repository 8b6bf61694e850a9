//! How many items a server holds, asked in its own words.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::servers::{Server, ServerKind};
use crate::protocol::fetch_stats;

/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer; memcached's has some 5 KiB.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Items that `server` holds.
pub(super) fn items(server: &Server) -> io::Result<u64> {
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    match server.kind {
        ServerKind::Quoit => Ok(fetch_stats(&mut stream).map_err(io::Error::other)?.sum("items")),
        ServerKind::Memcached => {
            let answer = ask(&mut stream, "stats\r\n", "END\r\n")?;
            number_after(&answer, "STAT curr_items ").ok_or_else(|| not_a_count(&answer))
        }
        ServerKind::Redis => {
            let answer = ask(&mut stream, "DBSIZE\r\n", "\r\n")?;
            number_after(&answer, ":").ok_or_else(|| not_a_count(&answer))
        }
        ServerKind::Echo => Ok(0),
    }
}

/// Sends a line and reads until the answer ends with `end`.
fn ask(stream: &mut TcpStream, line: &str, end: &str) -> io::Result<String> {
    stream.write_all(line.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.ends_with(end.as_bytes()) {
        let count = stream.read(&mut part)?;
        if count == 0 || answer.len() > ANSWER_BYTES_MAX {
            return Err(not_a_count(&String::from_utf8_lossy(&answer)));
        }
        answer.extend_from_slice(&part[..count]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The number at the end of the line that begins with `start`.
fn number_after(answer: &str, start: &str) -> Option<u64> {
    answer.lines().find_map(|line| line.strip_prefix(start))?.trim().parse().ok()
}

fn not_a_count(answer: &str) -> io::Error {
    io::Error::other(format!("a server did not say how many items it holds: {answer:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_in_answers() {
        let memcached = "STAT pid 1\r\nSTAT curr_items 42\r\nSTAT total_items 99\r\nEND\r\n";
        assert_eq!(number_after(memcached, "STAT curr_items "), Some(42));
        assert_eq!(number_after(":1000\r\n", ":"), Some(1000));
        assert_eq!(number_after("-ERR unknown command\r\n", ":"), None);
    }
}
