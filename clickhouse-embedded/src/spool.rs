//! A request's body on its way to the engine: its beginning in memory, the rest
//! in a file without a name.
//!
//! The engine stores an INSERT block by block as the data arrives. So that a
//! body which breaks off inserts nothing, it is here, whole and decoded, before
//! the engine sees any of it.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;

use crate::exception::{Exception, code};
use crate::wire;

/// What is held in memory of one body, in each of its forms.
pub const MEMORY_BYTES: usize = 1 << 20;

/// Bytes that were received.
#[derive(Debug)]
pub struct Spool {
    head: Vec<u8>,
    tail: Option<File>,
    length: usize,
    limit: usize,
    directory: PathBuf,
}

impl Spool {
    /// Takes up to `limit` bytes; what does not fit into memory is in `directory`.
    pub fn new(limit: usize, directory: PathBuf) -> Self {
        Self { head: Vec::new(), tail: None, length: 0, limit, directory }
    }

    /// An empty one with the same limit and place.
    pub fn sibling(&self) -> Self {
        Self::new(self.limit, self.directory.clone())
    }

    /// Its beginning; all of it if it is not larger than [`MEMORY_BYTES`].
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Its length.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether [`head`](Self::head) is all.
    pub fn is_in_memory(&self) -> bool {
        self.tail.is_none()
    }

    /// Appends; blocks when the file is written.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Exception> {
        self.length += data.len();
        if self.length > self.limit {
            return Err(wire::too_large(self.limit));
        }
        let (head, tail) = data.split_at(data.len().min(MEMORY_BYTES.saturating_sub(self.head.len())));
        self.head.extend_from_slice(head);
        if tail.is_empty() {
            return Ok(());
        }
        let file = match &mut self.tail {
            Some(file) => file,
            None => {
                let file =
                    tempfile::tempfile_in(&self.directory).map_err(|error| self.file_failed(&error))?;
                self.tail.insert(file)
            }
        };
        file.write_all(tail).map_err(|error| self.file_failed(&error))
    }

    /// Appends all that comes from a decoder; blocks.
    pub fn push_decoded(&mut self, mut decoder: impl Read) -> Result<(), Exception> {
        let mut piece = vec![0; 128 << 10];
        loop {
            match decoder.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => self.push(&piece[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(wire::decoding_failed(&error)),
            }
        }
    }

    /// Appends a request's body, of which something must come within each `patience`.
    pub async fn receive(mut self, mut body: Body, patience: Duration) -> Result<Self, Exception> {
        let broken = |error: &dyn std::fmt::Display| {
            Exception::new(code::NETWORK_ERROR, format_args!("reading the request: {error}"))
        };
        let mut waiting: Vec<Bytes> = Vec::new();
        let mut waiting_bytes = 0;
        loop {
            let frame = tokio::time::timeout(patience, body.frame())
                .await
                .map_err(|_| broken(&format_args!("nothing came for {patience:?}")))?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
            waiting_bytes += data.len();
            if self.length + waiting_bytes > self.limit {
                return Err(wire::too_large(self.limit));
            }
            waiting.push(data);
            if waiting_bytes > MEMORY_BYTES {
                waiting_bytes = 0;
                self = self.push_blocking(std::mem::take(&mut waiting)).await?;
            }
        }
        if self.length + waiting_bytes > MEMORY_BYTES {
            return self.push_blocking(waiting).await;
        }
        waiting.iter().try_for_each(|data| self.push(data))?;
        Ok(self)
    }

    async fn push_blocking(mut self, pieces: Vec<Bytes>) -> Result<Self, Exception> {
        tokio::task::spawn_blocking(move || {
            pieces.iter().try_for_each(|data| self.push(data))?;
            Ok(self)
        })
        .await
        .unwrap_or_else(|error| Err(Exception::new(code::UNKNOWN_EXCEPTION, format_args!("body: {error}"))))
    }

    /// All of it but the first `skipped` bytes, which [`head`](Self::head) has.
    pub fn into_reader(self, skipped: usize) -> io::Result<Box<dyn Read + Send>> {
        let mut head = Cursor::new(self.head);
        head.set_position(skipped as u64);
        Ok(match self.tail {
            None => Box::new(head),
            Some(mut file) => {
                file.rewind()?;
                Box::new(head.chain(file))
            }
        })
    }

    fn file_failed(&self, error: &io::Error) -> Exception {
        Exception::new(code::CANNOT_WRITE, format_args!("file in {}: {error}", self.directory.display()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_memory_comes_back_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..3 * MEMORY_BYTES as u32 / 4).flat_map(u32::to_le_bytes).collect();
        for length in [0, 10, MEMORY_BYTES, MEMORY_BYTES + 1, text.len()] {
            let spool = || {
                let mut spool = Spool::new(text.len(), directory.path().into());
                text[..length].chunks(100_000).for_each(|piece| spool.push(piece).unwrap());
                spool
            };
            assert_eq!(spool().is_in_memory(), length <= MEMORY_BYTES);
            assert!(spool().head().len() <= MEMORY_BYTES);
            for skipped in [0, length.min(7)] {
                let mut rest = Vec::new();
                spool().into_reader(skipped).unwrap().read_to_end(&mut rest).unwrap();
                assert!(rest == text[skipped..length]);
            }
        }
        // The file has no name that could be left behind.
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn the_limit_holds_in_memory_and_in_the_file() {
        for limit in [10, MEMORY_BYTES + 10] {
            let mut spool = Spool::new(limit, std::env::temp_dir());
            spool.push(&vec![0; limit]).unwrap();
            assert_eq!(spool.push(b"x").unwrap_err().code, code::TOO_LARGE);
        }
    }
}
