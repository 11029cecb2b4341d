//! How bodies are encoded: ClickHouse's compressed blocks (`compress=1`,
//! `decompress=1`) and the content encodings lz4, gzip and zstd.
//!
//! A block is a CityHash128 of what follows (16 bytes), a method byte, its size
//! with these nine bytes and its size once decompressed (u32 little-endian
//! each), then the data.

use std::io::{self, Read, Write};

use crate::exception::{Exception, code};

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const METHOD_NONE: u8 = 0x02;
const METHOD_LZ4: u8 = 0x82;
const METHOD_ZSTD: u8 = 0x90;
/// What goes into one block of ours, as ClickHouse cuts them.
const BLOCK_BYTES: usize = 1 << 20;
/// The largest block that is taken: it is decoded in memory. Clients make blocks
/// of 1 MiB, clickhouse-go of up to 10.
const MAX_BLOCK_BYTES: usize = 16 << 20;
/// The largest window of zstd, as a power of two: all that levels up to 19 need.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;
/// Level of zstd and gzip: the answer waits for it.
const ZSTD_LEVEL: i32 = 1;

/// An encoding of a whole body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentEncoding {
    /// An LZ4 frame.
    Lz4,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl ContentEncoding {
    /// All of them, the preferred first.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Lz4, Self::Gzip];

    /// Its name in HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// By its name in HTTP.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| name.eq_ignore_ascii_case(encoding.name()))
    }
}

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// As it is.
    #[default]
    Plain,
    /// ClickHouse's blocks with LZ4.
    Blocks,
    /// ClickHouse's blocks with Zstandard.
    ZstdBlocks,
    /// As HTTP knows it.
    Content(ContentEncoding),
}

/// Decodes an encoded body; an error of it that holds an [`Exception`] says why.
pub fn decoder<'a>(encoding: ContentEncoding, body: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match encoding {
        ContentEncoding::Lz4 => Box::new(FrameReader::new(body)),
        ContentEncoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body)),
        ContentEncoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(body)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// LZ4 frames, one or more. The decoder takes a frame that is cut between two
/// blocks for whole, and reads no further than to the end of the first.
struct FrameReader<R: Read> {
    decoder: lz4_flex::frame::FrameDecoder<FrameInput<R>>,
    within_frame: bool,
}

impl<R: Read> FrameReader<R> {
    fn new(body: R) -> Self {
        let input = FrameInput { body, peeked: None };
        Self { decoder: lz4_flex::frame::FrameDecoder::new(input), within_frame: false }
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !out.is_empty() {
            if !self.within_frame && !self.decoder.get_mut().has_more()? {
                return Ok(0);
            }
            let read = self.decoder.read(out)?;
            self.within_frame = read > 0;
            if self.within_frame {
                return Ok(read);
            }
        }
        Ok(0)
    }
}

/// Reading on at its end is an error.
struct FrameInput<R> {
    body: R,
    peeked: Option<u8>,
}

impl<R: Read> FrameInput<R> {
    fn has_more(&mut self) -> io::Result<bool> {
        if self.peeked.is_none() {
            let mut byte = [0];
            self.peeked = (read_fully(&mut self.body, &mut byte)? > 0).then_some(byte[0]);
        }
        Ok(self.peeked.is_some())
    }
}

impl<R: Read> Read for FrameInput<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if let Some(byte) = self.peeked.take() {
            out[0] = byte;
            return Ok(1);
        }
        match self.body.read(out)? {
            0 => Err(broken("an LZ4 frame is cut short")),
            read => Ok(read),
        }
    }
}

/// Reads ClickHouse's blocks.
pub struct BlockReader<R> {
    body: R,
    packed: Vec<u8>,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> BlockReader<R> {
    /// Reads from `body`.
    pub fn new(body: R) -> Self {
        Self { body, packed: Vec::new(), block: Vec::new(), at: 0 }
    }

    /// Fills `block`; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut prefix = [0; CHECKSUM_BYTES + HEADER_BYTES];
        match read_fully(&mut self.body, &mut prefix)? {
            0 => return Ok(false),
            length if length < prefix.len() => return Err(broken("a block is cut short")),
            _ => {}
        }
        let (expected, header) = prefix.split_at(CHECKSUM_BYTES);
        let size = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize
        };
        let (method, packed, unpacked) = (header[0], size(1), size(5));
        let packed = packed.checked_sub(HEADER_BYTES).ok_or_else(|| broken("a block is cut short"))?;
        // Before the checksum, which needs the bytes that this bounds.
        if packed.max(unpacked) > MAX_BLOCK_BYTES {
            let size = packed.max(unpacked);
            let text =
                format_args!("a block of {size} bytes; the limit is {MAX_BLOCK_BYTES}: send smaller blocks");
            return Err(io::Error::other(Exception::new(code::TOO_LARGE, text)));
        }
        self.packed.clear();
        self.packed.extend_from_slice(header);
        if (&mut self.body).take(packed as u64).read_to_end(&mut self.packed)? < packed {
            return Err(broken("a block is cut short"));
        }
        if checksum(&self.packed) != expected {
            return Err(io::Error::other(Exception::new(
                code::CHECKSUM_DOESNT_MATCH,
                "checksum of a compressed block does not match: corrupted data",
            )));
        }
        let data = &self.packed[HEADER_BYTES..];
        self.block.resize(unpacked, 0);
        self.at = 0;
        let written = match method {
            METHOD_NONE if data.len() == unpacked => {
                self.block.copy_from_slice(data);
                unpacked
            }
            METHOD_NONE => return Err(broken("an uncompressed block with two sizes")),
            METHOD_LZ4 => lz4_flex::block::decompress_into(data, &mut self.block).map_err(broken)?,
            METHOD_ZSTD => zstd::bulk::decompress_to_buffer(data, &mut self.block).map_err(broken)?,
            method => return Err(broken(format_args!("unknown method {method:#x}"))),
        };
        if written == unpacked { Ok(true) } else { Err(broken("a block is shorter than it says")) }
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let length = out.len().min(self.block.len() - self.at);
        out[..length].copy_from_slice(&self.block[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

fn read_fully(input: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match input.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Encodes an answer piece by piece. Every piece can be decoded as soon as it
/// is there, so that a client sees a slow answer grow.
pub struct Encoder(Kind);

enum Kind {
    Plain,
    Blocks(u8),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// For one answer.
    pub fn new(encoding: Encoding) -> io::Result<Self> {
        Ok(Self(match encoding {
            Encoding::Plain => Kind::Plain,
            Encoding::Blocks => Kind::Blocks(METHOD_LZ4),
            Encoding::ZstdBlocks => Kind::Blocks(METHOD_ZSTD),
            Encoding::Content(ContentEncoding::Lz4) => {
                Kind::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new())))
            }
            Encoding::Content(ContentEncoding::Gzip) => {
                Kind::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()))
            }
            Encoding::Content(ContentEncoding::Zstd) => {
                Kind::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?)
            }
        }))
    }

    /// The next piece.
    pub fn push(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.0 {
            Kind::Plain => Ok(data.to_vec()),
            Kind::Blocks(method) => compress_blocks(data, *method),
            Kind::Lz4(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Kind::Gzip(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Kind::Zstd(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// What is left to say at the end.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Kind::Plain | Kind::Blocks(_) => Ok(Vec::new()),
            Kind::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
            Kind::Gzip(encoder) => encoder.finish(),
            Kind::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// Cuts `data` into blocks.
fn compress_blocks(data: &[u8], method: u8) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for chunk in data.chunks(BLOCK_BYTES) {
        let start = out.len();
        let data_start = start + CHECKSUM_BYTES + HEADER_BYTES;
        let bound = match method {
            METHOD_ZSTD => zstd::zstd_safe::compress_bound(chunk.len()),
            _ => lz4_flex::block::get_maximum_output_size(chunk.len()),
        };
        out.resize(data_start + bound, 0);
        let written = match method {
            METHOD_ZSTD => zstd::bulk::compress_to_buffer(chunk, &mut out[data_start..], ZSTD_LEVEL)?,
            _ => lz4_flex::block::compress_into(chunk, &mut out[data_start..]).map_err(io::Error::other)?,
        };
        out.truncate(data_start + written);
        let header = &mut out[start + CHECKSUM_BYTES..data_start];
        header[0] = method;
        header[1..5].copy_from_slice(&((written + HEADER_BYTES) as u32).to_le_bytes());
        header[5..9].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
        let checksum = checksum(&out[start + CHECKSUM_BYTES..]);
        out[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum);
    }
    Ok(out)
}

/// The exception for a body over `limit` bytes.
pub fn too_large(limit: usize) -> Exception {
    Exception::new(code::TOO_LARGE, format_args!("request is over the limit of {limit} bytes (--max-body)"))
}

/// What a decoder's error means to the client.
pub fn decoding_failed(error: &io::Error) -> Exception {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Exception>()) {
        Some(exception) => exception.clone(),
        None => Exception::new(code::CANNOT_DECOMPRESS, error),
    }
}

/// CityHash 1.0.2 as ClickHouse writes it: the halves swapped, little-endian.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    cityhash_rs::cityhash_102_128(bytes).rotate_right(64).to_le_bytes()
}

fn broken(text: impl std::fmt::Display) -> io::Error {
    io::Error::other(Exception::new(code::CANNOT_DECOMPRESS, text))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const ALL: [Encoding; 5] = [
        Encoding::Blocks,
        Encoding::ZstdBlocks,
        Encoding::Content(ContentEncoding::Lz4),
        Encoding::Content(ContentEncoding::Gzip),
        Encoding::Content(ContentEncoding::Zstd),
    ];

    fn text() -> Vec<u8> {
        (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn encode(encoding: Encoding, pieces: &[&[u8]]) -> Vec<u8> {
        let mut encoder = Encoder::new(encoding).unwrap();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(encoder.push(piece).unwrap());
        }
        out.extend(encoder.finish().unwrap());
        out
    }

    fn decode(encoding: Encoding, body: &[u8]) -> Result<Vec<u8>, Exception> {
        let mut out = Vec::new();
        let read = match encoding {
            Encoding::Plain => unreachable!("not under test"),
            Encoding::Blocks | Encoding::ZstdBlocks => BlockReader::new(body).read_to_end(&mut out),
            Encoding::Content(content) => {
                decoder(content, body).and_then(|mut reader| reader.read_to_end(&mut out))
            }
        };
        read.map(|_| out).map_err(|error| decoding_failed(&error))
    }

    #[test]
    fn every_encoding_round_trips() {
        for encoding in ALL {
            let text = text();
            let encoded = encode(encoding, &[&text[..1000], &text[1000..]]);
            assert!(encoded.len() < text.len(), "{encoding:?}");
            assert!(decode(encoding, &encoded).unwrap() == text, "{encoding:?}");
        }
    }

    /// What was pushed can be read before the next piece is there.
    #[test]
    fn a_piece_is_readable_at_once() {
        for encoding in ALL {
            let piece = Encoder::new(encoding).unwrap().push(b"hello").unwrap();
            let mut seen = [0; 5];
            match encoding {
                Encoding::Content(content) => {
                    decoder(content, &piece[..]).unwrap().read_exact(&mut seen).unwrap()
                }
                _ => BlockReader::new(&piece[..]).read_exact(&mut seen).unwrap(),
            }
            assert_eq!(&seen, b"hello", "{encoding:?}");
        }
    }

    /// No cut of any encoded body decodes without an error, unless between two blocks.
    #[test]
    fn a_cut_is_found() {
        for encoding in ALL {
            let good = encode(encoding, &[b"hello hello hello hello", b"more and more"]);
            let first = encode(Encoding::Blocks, &[b"hello hello hello hello"]).len();
            let zstd_first = encode(Encoding::ZstdBlocks, &[b"hello hello hello hello"]).len();
            for end in 1..good.len() {
                let between = match encoding {
                    Encoding::Blocks => end == first,
                    Encoding::ZstdBlocks => end == zstd_first,
                    _ => false,
                };
                if !between {
                    let error =
                        decode(encoding, &good[..end]).expect_err(&format!("{encoding:?} cut at {end}"));
                    assert_eq!(error.code, code::CANNOT_DECOMPRESS, "{encoding:?} cut at {end}");
                }
            }
        }
    }

    /// Any flipped bit of a block is found by its checksum.
    #[test]
    fn damage_of_a_block_is_found() {
        for encoding in [Encoding::Blocks, Encoding::ZstdBlocks] {
            let good = encode(encoding, &[b"hello hello hello hello"]);
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                assert!(decode(encoding, &bad).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn uncompressed_blocks() {
        let mut block = vec![0; CHECKSUM_BYTES];
        block.push(METHOD_NONE);
        block.extend((HEADER_BYTES as u32 + 3).to_le_bytes());
        block.extend(3u32.to_le_bytes());
        block.extend(b"abc");
        let sum = checksum(&block[CHECKSUM_BYTES..]);
        block[..CHECKSUM_BYTES].copy_from_slice(&sum);
        assert_eq!(decode(Encoding::Blocks, &block).unwrap(), b"abc");
    }

    #[test]
    fn a_block_over_the_limit_is_refused_before_it_is_unpacked() {
        let check = |packed: usize, unpacked: usize, expected| {
            let header =
                [&[METHOD_LZ4][..], &(packed as u32).to_le_bytes(), &(unpacked as u32).to_le_bytes()];
            let block = [&[0; CHECKSUM_BYTES], &header.concat()[..]].concat();
            assert_eq!(decode(Encoding::Blocks, &block).unwrap_err().code, expected, "{packed} {unpacked}");
        };
        check(100, MAX_BLOCK_BYTES, code::CANNOT_DECOMPRESS); // cut short
        check(100, MAX_BLOCK_BYTES + 1, code::TOO_LARGE);
        check(MAX_BLOCK_BYTES + HEADER_BYTES + 1, 100, code::TOO_LARGE);
    }
}
