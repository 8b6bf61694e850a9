//! The admin HTTP of a node, as the commands about a cluster ask it.
//!
//! One request a connection, nothing sent but a head, an answer of bounded size in bounded time; HTTP/1.0, so that the
//! answer ends where the connection does. Several addresses are tried in turn: whoever answers speaks for the cluster.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::Deserialize;

use super::output::printable;
use crate::control::status::ClusterStatus;

/// Bytes of an answer: a thousand nodes take a tenth.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// The admin HTTP's usual port, for addresses without one.
const PORT_DEFAULT: u16 = 7401;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    /// Nobody answers at any of the addresses.
    #[error("no node answers at {address}: {source} (--admin names the admin HTTP of a node, as its --admin did)")]
    Unreachable {
        /// The last address that was tried.
        address: String,
        /// What happened there.
        source: io::Error,
    },
    /// What came is no answer of a node.
    #[error("what answers at {0} is not the admin HTTP of a node of this version (--admin)")]
    Foreign(String),
    /// The cluster says no, and why.
    #[error("{0}")]
    Refused(String),
    /// The node can't answer, and says why.
    #[error("{0}")]
    Failed(String),
}

/// What a node says that does not do what it was asked.
#[derive(Deserialize)]
struct Complaint {
    error: String,
}

/// The admin HTTP of some nodes of one cluster.
#[derive(Debug)]
pub(super) struct Admin<'a> {
    pub addresses: &'a [String],
    pub timeout: Duration,
}

impl Admin<'_> {
    /// Asks for `path`, and reads how the cluster stands.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<ClusterStatus, AdminError> {
        let mut last = AdminError::Foreign("nowhere".to_owned());
        for address in self.addresses {
            let with_port = if address.contains(':') { address.clone() } else { format!("{address}:{PORT_DEFAULT}") };
            match exchange(&with_port, method, path, self.timeout) {
                Ok(answer) => return read(&with_port, &answer),
                Err(source) => last = AdminError::Unreachable { address: with_port, source },
            }
        }
        Err(last)
    }
}

/// One request and its whole answer.
fn exchange(address: &str, method: &str, path: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for place in address.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&place, timeout) {
            Ok(stream) => stream,
            Err(error) => {
                last = error;
                continue;
            }
        };
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        return Ok(answer);
    }
    Err(last)
}

fn read(address: &str, answer: &[u8]) -> Result<ClusterStatus, AdminError> {
    let foreign = || AdminError::Foreign(address.to_owned());
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(foreign)?;
    let (head, body) = (&answer[..head_end], &answer[head_end + 4..]);
    let code = head.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).ok_or_else(foreign)?;
    if code == b"200" {
        return serde_json::from_slice(body).map_err(|_| foreign());
    }
    let Complaint { error } = serde_json::from_slice(body).map_err(|_| foreign())?;
    let error = printable(&error);
    Err(if matches!(code, b"404" | b"409") { AdminError::Refused(error) } else { AdminError::Failed(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_a_refusal_a_failure_or_foreign() {
        let status = serde_json::to_string(&ClusterStatus { epoch: 7, ..ClusterStatus::default() }).expect("JSON");
        let answer =
            |code: &str, body: &str| read("here:1", format!("HTTP/1.1 {code} x\r\nA: b\r\n\r\n{body}").as_bytes());
        assert_eq!(answer("200", &status).expect("a status").epoch, 7);
        let complaint = "{\"error\":\"\\u001bno\"}";
        assert!(matches!(answer("409", complaint), Err(AdminError::Refused(why)) if why == "no"));
        assert!(matches!(answer("404", complaint), Err(AdminError::Refused(_))));
        assert!(matches!(answer("503", complaint), Err(AdminError::Failed(why)) if why == "no"));
        for foreign in ["200", "404"] {
            assert!(matches!(answer(foreign, "<html>"), Err(AdminError::Foreign(_))));
        }
        for foreign in ["", "HTTP/1.", "\r\n\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1\r\n\r\n"] {
            assert!(matches!(read("here:1", foreign.as_bytes()), Err(AdminError::Foreign(_))), "{foreign:?}");
        }
    }
}
