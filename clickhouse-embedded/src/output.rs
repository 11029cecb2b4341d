//! How a statement's thread hands its answer over.

use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::mpsc;

use crate::exception::{Exception, code};
use crate::ffi::{QueryResult, Summary};
use crate::native;
use crate::wire::{Encoder, Encoding};

/// How long a client may leave its answer unread, as in ClickHouse (`http_send_timeout`).
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// An answer that was made whole is encoded in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// What comes from a running statement: any number of pieces, then one of the others.
#[derive(Debug)]
pub enum Event {
    /// A piece of the encoded answer.
    Piece(Bytes),
    /// The answer was given whole.
    End(Outcome),
    /// It failed, perhaps after some pieces.
    Failed {
        /// Why.
        exception: Exception,
        /// The exception as part of the body, if pieces were sent before.
        in_body: Bytes,
    },
}

/// What a statement did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// What it cost.
    pub summary: Summary,
    /// Bytes of its result, before they were encoded.
    pub result_bytes: u64,
    /// Time in the engine and in sending, its queue not counted.
    pub elapsed: Duration,
}

/// Why a statement's thread ended early.
pub(crate) enum Stop {
    Failed(Exception),
    /// Nobody reads the answer.
    Unheard,
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Self {
        Self::Failed(exception)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(Exception::new(code::UNKNOWN_EXCEPTION, format_args!("encoding the answer: {error}")))
    }
}

/// Where a statement's thread sends what it has.
pub(crate) struct Output {
    sender: mpsc::Sender<Event>,
    /// Made with the first piece: an answer without any has no encoding.
    encoder: Option<Encoder>,
    encoding: Encoding,
    tag: String,
    /// Not 0: the answer is in Native blocks, for that version of the protocol.
    native_version: u64,
}

impl Output {
    pub(crate) fn new(sender: mpsc::Sender<Event>, encoding: Encoding, tag: String) -> Self {
        Self { sender, encoder: None, encoding, tag, native_version: 0 }
    }

    /// Pieces are whole Native blocks, to be sent as that version has them.
    pub(crate) fn speak_native(&mut self, version: u64) {
        self.native_version = version;
    }

    /// Sends a part of the result.
    pub(crate) fn send(&mut self, piece: Bytes) -> Result<(), Stop> {
        if self.native_version == 0 {
            return self.encode(piece);
        }
        let piece = native::for_client(&piece, self.native_version)?;
        self.encode(piece.into())
    }

    fn encode(&mut self, piece: Bytes) -> Result<(), Stop> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => self.encoder.insert(Encoder::new(self.encoding)?),
        };
        let piece = if encoder.is_plain() { piece } else { encoder.push(&piece)?.into() };
        self.give(Event::Piece(piece))
    }

    pub(crate) fn send_whole(&mut self, result: QueryResult) -> Result<(), Stop> {
        let mut rest = Bytes::from_owner(result);
        if self.native_version != 0 {
            return self.send(rest);
        }
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            self.send(piece)?;
        }
        Ok(())
    }

    pub(crate) fn end(mut self, outcome: Result<Outcome, Stop>, version: &str) {
        let last = match outcome {
            Ok(outcome) => match self.encoder.take().map_or_else(|| Ok(Vec::new()), Encoder::finish) {
                Ok(rest) if rest.is_empty() => Ok(Event::End(outcome)),
                Ok(rest) => self.give(Event::Piece(rest.into())).map(|()| Event::End(outcome)),
                Err(error) => Err(error.into()),
            },
            Err(stop) => Err(stop),
        };
        let event = match last {
            Ok(event) => event,
            Err(Stop::Failed(exception)) => {
                let in_body = exception.in_body(version, &self.tag);
                let in_body = match &mut self.encoder {
                    // What cannot be encoded cannot be read; the body ends cut.
                    Some(encoder) => encoder.push(&in_body).unwrap_or_default(),
                    None => in_body,
                };
                Event::Failed { exception, in_body: in_body.into() }
            }
            Err(Stop::Unheard) => return,
        };
        // Nobody has to hear of the end.
        let _: Result<(), Stop> = self.give(event);
    }

    fn give(&self, event: Event) -> Result<(), Stop> {
        let sending = tokio::time::timeout(SEND_PATIENCE, self.sender.send(event));
        match tokio::runtime::Handle::current().block_on(sending) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stop::Unheard),
        }
    }
}
