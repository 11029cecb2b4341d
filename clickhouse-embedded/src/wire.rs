//! ClickHouse's compressed blocks (`compress=1`, `decompress=1`) and LZ4 as a
//! content encoding.
//!
//! A block is a CityHash128 of what follows (16 bytes), a method byte, its size
//! with these nine bytes and its size once decompressed (u32 little-endian
//! each), then the data.

use std::io::{Read, Write};

use crate::exception::{Exception, code};

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const METHOD_NONE: u8 = 0x02;
const METHOD_LZ4: u8 = 0x82;
const METHOD_ZSTD: u8 = 0x90;
/// What goes into one block of ours, as ClickHouse cuts them.
const BLOCK_BYTES: usize = 1 << 20;

/// Decompresses a sequence of blocks, appending to `out`, which may grow to
/// `limit` bytes.
pub fn decompress_blocks(mut input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Exception> {
    while !input.is_empty() {
        let (block, rest) = split_block(input)?;
        let size = block.decompressed_bytes;
        if size > limit.saturating_sub(out.len()) {
            return Err(too_large(limit));
        }
        let start = out.len();
        match block.method {
            METHOD_NONE if block.data.len() == size => out.extend_from_slice(block.data),
            METHOD_LZ4 => {
                out.resize(start + size, 0);
                let written = lz4_flex::block::decompress_into(block.data, &mut out[start..])
                    .map_err(|error| Exception::new(code::CANNOT_DECOMPRESS, error))?;
                if written != size {
                    return Err(broken("a block is shorter than it says"));
                }
            }
            METHOD_NONE => return Err(broken("an uncompressed block with two sizes")),
            METHOD_ZSTD => {
                return Err(Exception::new(code::NOT_IMPLEMENTED, "ZSTD blocks; use LZ4"));
            }
            method => return Err(broken(format_args!("unknown method {method:#x}"))),
        }
        input = rest;
    }
    Ok(())
}

/// Cuts `data` into LZ4 blocks.
pub fn compress_blocks(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in data.chunks(BLOCK_BYTES) {
        let start = out.len();
        let data_start = start + CHECKSUM_BYTES + HEADER_BYTES;
        out.resize(data_start + lz4_flex::block::get_maximum_output_size(chunk.len()), 0);
        let written = lz4_flex::block::compress_into(chunk, &mut out[data_start..])
            .expect("get_maximum_output_size is enough");
        out.truncate(data_start + written);
        let header = &mut out[start + CHECKSUM_BYTES..data_start];
        header[0] = METHOD_LZ4;
        header[1..5].copy_from_slice(&((written + HEADER_BYTES) as u32).to_le_bytes());
        header[5..9].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
        let checksum = checksum(&out[start + CHECKSUM_BYTES..]);
        out[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum);
    }
    out
}

/// Decompresses an LZ4 frame (`Content-Encoding: lz4`), appending to `out`,
/// which may grow to `limit` bytes.
pub fn decompress_frame(input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Exception> {
    // One byte more than allowed tells "too large" from "just fits".
    let room = limit.saturating_sub(out.len()) as u64;
    let read = lz4_flex::frame::FrameDecoder::new(input)
        .take(room + 1)
        .read_to_end(out)
        .map_err(|error| Exception::new(code::CANNOT_DECOMPRESS, error))?;
    if read as u64 > room { Err(too_large(limit)) } else { Ok(()) }
}

/// Compresses into one LZ4 frame.
pub fn compress_frame(data: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(data).expect("writing to a Vec cannot fail");
    encoder.finish().expect("writing to a Vec cannot fail")
}

/// The exception for a body over `limit` bytes.
pub fn too_large(limit: usize) -> Exception {
    Exception::new(code::TOO_LARGE, format_args!("request is over the limit of {limit} bytes (--max-body)"))
}

struct Block<'a> {
    method: u8,
    decompressed_bytes: usize,
    data: &'a [u8],
}

fn split_block(input: &[u8]) -> Result<(Block<'_>, &[u8]), Exception> {
    let cut = || broken("a block is cut short");
    let (expected, rest) = input.split_at_checked(CHECKSUM_BYTES).ok_or_else(cut)?;
    let header: &[u8; HEADER_BYTES] = rest.first_chunk().ok_or_else(cut)?;
    let size =
        |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (hashed, after) = rest.split_at_checked(size(1)).ok_or_else(cut)?;
    let data = hashed.get(HEADER_BYTES..).ok_or_else(cut)?;
    if checksum(hashed) != expected {
        return Err(Exception::new(
            code::CHECKSUM_DOESNT_MATCH,
            "checksum of a compressed block does not match: corrupted data",
        ));
    }
    Ok((Block { method: header[0], decompressed_bytes: size(5), data }, after))
}

/// CityHash 1.0.2 as ClickHouse writes it: the halves swapped, little-endian.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    cityhash_rs::cityhash_102_128(bytes).rotate_right(64).to_le_bytes()
}

fn broken(text: impl std::fmt::Display) -> Exception {
    Exception::new(code::CANNOT_DECOMPRESS, text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    #[test]
    fn blocks_round_trip() {
        let mut out = b"INSERT\n".to_vec();
        decompress_blocks(&compress_blocks(&text()), &mut out, usize::MAX).unwrap();
        assert_eq!(out.strip_prefix(b"INSERT\n").unwrap(), text());
    }

    #[test]
    fn frames_round_trip() {
        let mut out = Vec::new();
        decompress_frame(&compress_frame(&text()), &mut out, text().len()).unwrap();
        assert_eq!(out, text());
        let error = decompress_frame(&compress_frame(&text()), &mut Vec::new(), text().len() - 1);
        assert_eq!(error.unwrap_err().code, code::TOO_LARGE);
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
        let mut out = Vec::new();
        decompress_blocks(&block, &mut out, 3).unwrap();
        assert_eq!(out, b"abc");
    }

    /// Any flipped bit is found by the checksum, any cut by the sizes.
    #[test]
    fn damage_is_found() {
        let good = compress_blocks(b"hello hello hello hello");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decompress_blocks(&bad, &mut Vec::new(), 1 << 20).is_err(), "byte {at}");
        }
        for end in 1..good.len() {
            let cut = decompress_blocks(&good[..end], &mut Vec::new(), 1 << 20);
            assert_eq!(cut.unwrap_err().code, code::CANNOT_DECOMPRESS, "{end}");
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let bomb = compress_blocks(&vec![0; 1 << 20]);
        let error = decompress_blocks(&bomb, &mut Vec::new(), 1000).unwrap_err();
        assert_eq!(error.code, code::TOO_LARGE);
    }
}
