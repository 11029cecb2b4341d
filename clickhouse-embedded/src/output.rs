//! How a statement's thread hands its answer over.

use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::exception::{Exception, code, stopping};
use crate::ffi::Summary;
use crate::native;
use crate::wire::{Encoder, Encoding};

/// Answers are sent in pieces of this size: what waits for a client is a few of
/// them, not the engine's chunk (65 MB) or the whole result.
const PIECE_BYTES: usize = 256 << 10;

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
    /// The process stops and waits for slow clients no longer.
    cut: CancellationToken,
    /// Made with the first piece: an answer without any has no encoding.
    encoder: Option<Encoder>,
    encoding: Encoding,
    tag: String,
    /// Not 0: the answer is in Native blocks, for that version of the protocol.
    native_version: u64,
}

impl Output {
    pub(crate) fn new(
        sender: mpsc::Sender<Event>,
        cut: CancellationToken,
        encoding: Encoding,
        tag: String,
    ) -> Self {
        Self { sender, cut, encoder: None, encoding, tag, native_version: 0 }
    }

    /// Pieces are whole Native blocks, to be sent as that version has them.
    pub(crate) fn speak_native(&mut self, version: u64) {
        self.native_version = version;
    }

    /// Sends a part of the result.
    pub(crate) fn send(&mut self, part: &[u8]) -> Result<(), Stop> {
        if self.native_version == 0 {
            return self.encode(part);
        }
        let part = native::for_client(part, self.native_version)?;
        self.encode(&part)
    }

    fn encode(&mut self, part: &[u8]) -> Result<(), Stop> {
        for piece in part.chunks(PIECE_BYTES) {
            let encoder = match &mut self.encoder {
                Some(encoder) => encoder,
                None => self.encoder.insert(Encoder::new(self.encoding)?),
            };
            let piece = encoder.push(piece)?;
            self.give(Event::Piece(piece.into()))?;
        }
        Ok(())
    }

    /// What is left to be sent: perhaps a piece, and the last event. Nothing if nobody reads.
    pub(crate) fn end(mut self, outcome: Result<Outcome, Stop>, version: &str) -> Vec<Event> {
        let last = outcome.and_then(|outcome| {
            let rest = self.encoder.take().map_or_else(|| Ok(Vec::new()), Encoder::finish)?;
            let rest = Some(rest).filter(|rest| !rest.is_empty());
            Ok(rest.map(|rest| Event::Piece(rest.into())).into_iter().chain([Event::End(outcome)]).collect())
        });
        match last {
            Ok(events) => events,
            Err(Stop::Failed(exception)) => {
                let in_body = exception.in_body(version, &self.tag);
                let in_body = match &mut self.encoder {
                    // What cannot be encoded cannot be read; the body ends cut.
                    Some(encoder) => encoder.push(&in_body).unwrap_or_default(),
                    None => in_body,
                };
                vec![Event::Failed { exception, in_body: in_body.into() }]
            }
            Err(Stop::Unheard) => Vec::new(),
        }
    }

    /// Waits until the client has taken what came before. One that takes
    /// nothing loses its connection (`listen.rs`), and this its receiver.
    fn give(&self, event: Event) -> Result<(), Stop> {
        tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                biased;
                sent = self.sender.send(event) => sent.map_err(|_| Stop::Unheard),
                () = self.cut.cancelled() => Err(stopping().into()),
            }
        })
    }
}
