//! What an agent sends, message by message.
//!
//! Not by tonic's own reader, whose buffer stays as large as the largest message was: that is some of the memory of
//! each of thousands of streams, which say nothing for most of the time.

use bytes::BytesMut;
use hearth_proto::config::v1::NodeReport;
use http_body_util::BodyExt as _;
use prost::Message as _;
use tokio_util::codec::{Decoder as _, LengthDelimitedCodec};
use tonic::Status;
use tonic::body::Body;

/// A flag, and the length in four bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: u8 = 5;

/// The reports of a stream.
pub(super) struct Incoming {
    body: Body,
    messages: LengthDelimitedCodec,
    /// What came of the next message. Empty between messages, and then without memory.
    buffer: BytesMut,
}

impl Incoming {
    /// Of messages of at most `limit` bytes.
    pub(super) fn new(body: Body, limit: usize) -> Self {
        let mut messages = LengthDelimitedCodec::builder();
        // The prefix is given out too: its flag matters.
        messages.length_field_offset(1).length_field_length(4).num_skip(0).length_adjustment(PREFIX.into());
        messages.max_frame_length(limit);
        Self { body, messages: messages.new_codec(), buffer: BytesMut::new() }
    }

    /// The next one; `None`: the agent has nothing more to say. To drop the future loses none.
    ///
    /// # Errors
    /// The connection failed, or what came is no report.
    pub(super) async fn message(&mut self) -> Result<Option<NodeReport>, Status> {
        loop {
            if let Some(message) = self.messages.decode(&mut self.buffer).map_err(|_| {
                // The one thing that can be wrong with a length.
                Status::out_of_range(format!(
                    "a report is longer than {} bytes",
                    self.messages.max_frame_length()
                ))
            })? {
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                if message[0] != 0 {
                    return Err(Status::unimplemented("messages may not be compressed"));
                }
                let report = NodeReport::decode(&message[PREFIX.into()..]);
                return report
                    .map(Some)
                    .map_err(|error| Status::invalid_argument(format!("a report: {error}")));
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::invalid_argument("the stream ends within a message")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::FutureExt as _;
    use hearth_proto::config::v1::Hello;
    use hearth_proto::config::v1::node_report::Report;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;

    const LIMIT: usize = 100;

    fn hello(node: &str) -> NodeReport {
        NodeReport { report: Some(Report::Hello(Hello { node: node.to_owned(), ..Hello::default() })) }
    }

    /// As it is on the wire.
    fn written(report: &NodeReport) -> Vec<u8> {
        let message = report.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        [&[0], &length.to_be_bytes()[..], &message].concat()
    }

    fn incoming(pieces: Vec<Vec<u8>>) -> Incoming {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        Incoming::new(Body::new(StreamBody::new(futures::stream::iter(frames))), LIMIT)
    }

    #[tokio::test]
    async fn messages_come_out_however_they_are_cut() {
        let reports = [hello("a"), NodeReport::default(), hello("bcd")];
        let bytes: Vec<u8> = reports.iter().flat_map(written).collect();
        for size in 1..=bytes.len() {
            let mut incoming = incoming(bytes.chunks(size).map(<[u8]>::to_vec).collect());
            for report in &reports {
                assert_eq!(incoming.message().await.unwrap().as_ref(), Some(report), "pieces of {size}");
            }
            assert_eq!(incoming.message().await.unwrap(), None);
            assert_eq!(incoming.buffer.capacity(), 0, "nothing is kept");
        }
    }

    #[tokio::test]
    async fn who_stops_waiting_loses_nothing() {
        let (pieces, frames) = tokio::sync::mpsc::channel(1);
        let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
        let mut incoming = Incoming::new(Body::new(StreamBody::new(frames)), LIMIT);
        for piece in written(&hello("ab")).chunks(4) {
            pieces.send(Ok::<_, Infallible>(Frame::data(Bytes::from(piece.to_vec())))).await.unwrap();
            if let Some(message) = incoming.message().now_or_never() {
                return assert_eq!(message.unwrap(), Some(hello("ab")));
            }
        }
        panic!("it never came");
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let mut compressed = written(&hello("a"));
        compressed[0] = 1;
        let cut = written(&hello("a"))[..6].to_vec();
        let cases = [
            (compressed, Code::Unimplemented),
            (cut, Code::InvalidArgument),
            (vec![0, 0, 0, 0, 2, 0xff, 0xff], Code::InvalidArgument),
            (vec![0, 0, 0, 0, 101], Code::OutOfRange),
            (vec![0, 0xff, 0xff, 0xff, 0xff], Code::OutOfRange),
        ];
        for (bytes, code) in cases {
            assert_eq!(incoming(vec![bytes.clone()]).message().await.unwrap_err().code(), code, "{bytes:?}");
        }
        assert_eq!(written(&hello(&"x".repeat(96))).len(), LIMIT + usize::from(PREFIX));
        incoming(vec![written(&hello(&"x".repeat(96)))]).message().await.unwrap();
    }
}
