//! Traces of real caches, in libCacheSim's format oracleGeneral.
//!
//! ```text
//! 0      4           12     16              24
//! ┌──────┬───────────┬──────┬───────────────┐
//! │ time │ object id │ size │ next access   │   packed, little-endian, one after the other
//! │ u32  │ u64       │ u32  │ i64           │
//! └──────┴───────────┴──────┴───────────────┘
//! ```
//! `next access` is the number (from 1) of the record that asks for the object again, -1 (or the largest number) for
//! none. It is not used here, but tells a trace from noise.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes of a record.
const RECORD_BYTES: usize = 24;
/// Records read from the file at a time: about a megabyte.
const BUFFER_RECORDS: usize = 44_000;
/// More records than any trace has; a next access beyond is noise.
const RECORDS_PLAUSIBLE: i64 = 1 << 40;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Seconds, from the trace's own beginning.
    pub(crate) time_s: u32,
    /// What was asked for.
    pub(crate) object: u64,
    /// Its bytes.
    pub(crate) size_bytes: u32,
}

/// Why a trace can't be played (on).
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// The file can't be read.
    #[error("can't read the trace {}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Nothing in it.
    #[error("the trace {} holds no record", .0.display())]
    Empty(PathBuf),
    /// It ends within a record.
    #[error("the trace is cut off: record {record} has {bytes} of its 24 bytes; fetch the file again, or cut it to {} bytes", (.record - 1) * RECORD_BYTES as u64)]
    Short {
        /// Number of the record, from 1.
        record: u64,
        /// Bytes there are of it.
        bytes: usize,
    },
    /// A record that no trace has.
    #[error(
        "record {record} of the trace is corrupt: its next access is {next_access}; is the file an uncompressed oracleGeneral trace?"
    )]
    Corrupt {
        /// Number of the record, from 1.
        record: u64,
        /// What gave it away.
        next_access: i64,
    },
}

/// Reads a trace record by record.
#[derive(Debug)]
pub(crate) struct TraceReader<R> {
    source: R,
    path: PathBuf,
    /// Number of the next record, from 1.
    number: u64,
}

impl TraceReader<BufReader<File>> {
    /// Opens a trace; one that is empty or ends within a record is refused before anything is played.
    pub(crate) fn open(path: &Path) -> Result<Self, TraceError> {
        let io_error = |error| TraceError::Io { path: path.to_owned(), error };
        let file = File::open(path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        let (records, rest) = (metadata.len() / RECORD_BYTES as u64, metadata.len() % RECORD_BYTES as u64);
        // The length of a pipe is not known; it is checked as it is read.
        if metadata.is_file() {
            if metadata.len() == 0 {
                return Err(TraceError::Empty(path.to_owned()));
            }
            if rest != 0 {
                return Err(TraceError::Short { record: records + 1, bytes: rest as usize });
            }
        }
        Ok(Self::new(BufReader::with_capacity(BUFFER_RECORDS * RECORD_BYTES, file), path))
    }
}

impl<R: Read> TraceReader<R> {
    /// Reads a trace from `source`; `path` is its name in messages.
    pub(crate) fn new(source: R, path: &Path) -> Self {
        Self { source, path: path.to_owned(), number: 1 }
    }

    /// The next record; `None` at the end.
    pub(crate) fn next_record(&mut self) -> Result<Option<Record>, TraceError> {
        let mut bytes = [0; RECORD_BYTES];
        let mut filled = 0;
        while filled < RECORD_BYTES {
            match self.source.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TraceError::Short { record: self.number, bytes: filled }),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TraceError::Io { path: self.path.clone(), error }),
            }
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let next_access = u64_at(16).cast_signed();
        if !matches!(next_access, -1 | i64::MAX | 1..=RECORDS_PLAUSIBLE) {
            return Err(TraceError::Corrupt { record: self.number, next_access });
        }
        self.number += 1;
        Ok(Some(Record { time_s: u32_at(0), object: u64_at(4), size_bytes: u32_at(12) }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(records: &[(u32, u64, u32, i64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (time, object, size, next) in records {
            bytes.extend(time.to_le_bytes());
            bytes.extend(object.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(next.to_le_bytes());
        }
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Record>, TraceError> {
        let mut reader = TraceReader::new(bytes, Path::new("test"));
        std::iter::from_fn(|| reader.next_record().transpose()).collect()
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let bytes = bytes_of(&[(1, 2, 3, 2), (4, u64::MAX, u32::MAX, -1), (5, 0, 0, i64::MAX)]);
        let expected = [(1, 2, 3), (4, u64::MAX, u32::MAX), (5, 0, 0)].map(|(time_s, object, size_bytes)| Record {
            time_s,
            object,
            size_bytes,
        });
        assert_eq!(read_all(&bytes).expect("valid"), expected);
    }

    #[test]
    fn a_cut_trace_names_the_record() {
        let bytes = bytes_of(&[(1, 2, 3, -1), (1, 2, 3, -1)]);
        let error = read_all(&bytes[..30]).expect_err("cut");
        assert!(matches!(error, TraceError::Short { record: 2, bytes: 6 }), "{error:?}");
        assert!(error.to_string().contains("record 2 has 6 of its 24 bytes"), "{error}");
    }

    #[test]
    fn a_corrupt_record_is_named() {
        for next in [0, -2, i64::MIN, RECORDS_PLAUSIBLE + 1] {
            let error = read_all(&bytes_of(&[(1, 2, 3, -1), (1, 2, 3, next)])).expect_err("corrupt");
            assert!(matches!(error, TraceError::Corrupt { record: 2, .. }), "{error:?}");
        }
    }

    #[test]
    fn files_are_checked_before_they_are_played() {
        let directory = std::env::temp_dir().join(format!("quoit-loadgen-trace-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        let empty = TraceReader::open(&write("empty", b""));
        let cut = TraceReader::open(&write("cut", &bytes_of(&[(1, 2, 3, -1), (1, 2, 3, -1)])[..25]));
        let missing = TraceReader::open(&directory.join("missing"));
        let whole = TraceReader::open(&write("whole", &bytes_of(&[(1, 2, 3, -1)])));
        std::fs::remove_dir_all(&directory).expect("removed");
        assert!(matches!(empty, Err(TraceError::Empty(_))));
        assert!(matches!(cut, Err(TraceError::Short { record: 2, bytes: 1 })));
        assert!(matches!(missing, Err(TraceError::Io { .. })));
        assert!(whole.is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_all(&bytes);
        }
    }
}
