//! Reads what the BPF programs put into the ring buffer and the maps.

use hearth_node_agent_ebpf::record::{CountKey, SAMPLE_HEADER_BYTES, SampleHeader};
use thiserror::Error;

/// One sample, its stacks apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSample {
    /// As the kernel wrote it.
    pub header: SampleHeader,
    /// Kernel addresses, leaf first.
    pub kernel: Vec<u64>,
    /// User addresses, leaf first.
    pub user: Vec<u64>,
}

/// A record of the ring buffer that is not a sample.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadRecord {
    /// Shorter than its header.
    #[error("a record of {0} bytes is shorter than a sample's header")]
    Short(usize),
    /// The header names more frames than the record holds.
    #[error("a record of {bytes} bytes claims {frames} frames")]
    Frames {
        /// Length of the record.
        bytes: usize,
        /// Frames by its header.
        frames: usize,
    },
}

impl RawSample {
    /// Parses a record of the ring buffer; the ring buffer pads it to eight bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (head, rest) =
            bytes.split_at_checked(SAMPLE_HEADER_BYTES).ok_or(BadRecord::Short(bytes.len()))?;
        let header = header(head);
        let (kernel, user) = (usize::from(header.kernel_frames), usize::from(header.user_frames));
        let words = rest.as_chunks::<8>().0;
        if words.len() < kernel + user {
            return Err(BadRecord::Frames { bytes: bytes.len(), frames: kernel + user });
        }
        let addresses = |words: &[[u8; 8]]| words.iter().map(|&word| u64::from_ne_bytes(word)).collect();
        Ok(Self {
            header,
            kernel: addresses(&words[..kernel]),
            user: addresses(&words[kernel..kernel + user]),
        })
    }
}

fn header(bytes: &[u8]) -> SampleHeader {
    let u64_at = |at| u64::from_ne_bytes(array(bytes, at));
    let u32_at = |at| u32::from_ne_bytes(array(bytes, at));
    let u16_at = |at| u16::from_ne_bytes(array(bytes, at));
    SampleHeader {
        time: u64_at(0),
        tick: u64_at(8),
        tgid: u32_at(16),
        tid: u32_at(20),
        cpu: u32_at(24),
        rate: u32_at(28),
        node_rate: u32_at(32),
        user_frames: u16_at(36),
        kernel_frames: u16_at(38),
        walk_end: u32_at(40),
        reserved: u32_at(44),
        comm: array(bytes, 48),
    }
}

/// The bytes of a [`CountKey`] as the map holds them.
pub type CountKeyBytes = [u8; size_of::<CountKey>()];

/// Reads the key of a count.
pub fn count_key(bytes: &CountKeyBytes) -> CountKey {
    CountKey {
        tgid: u32::from_ne_bytes(array(bytes, 0)),
        kind: u16::from_ne_bytes(array(bytes, 4)),
        main_thread: u16::from_ne_bytes(array(bytes, 6)),
        comm: array(bytes, 8),
    }
}

/// Writes the key of a count.
pub fn count_key_bytes(key: &CountKey) -> CountKeyBytes {
    let mut bytes: CountKeyBytes = [0; size_of::<CountKey>()];
    bytes[..4].copy_from_slice(&key.tgid.to_ne_bytes());
    bytes[4..6].copy_from_slice(&key.kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&key.main_thread.to_ne_bytes());
    bytes[8..].copy_from_slice(&key.comm);
    bytes
}

/// The name in a `comm`, up to its first zero; broken UTF-8 becomes U+FFFD.
pub fn comm_name(comm: &[u8]) -> String {
    let name = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    hearth_profile::frame::clean_frame(&String::from_utf8_lossy(name)).into_owned()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kernel: u16, user: u16, words: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend(8_u64.to_ne_bytes());
        for word in [11_u32, 12, 1, 99, 499] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(user.to_ne_bytes());
        bytes.extend(kernel.to_ne_bytes());
        bytes.extend(2_u32.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(*b"worker 1\0garbage");
        (0..words as u64).for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_record_is_its_header_and_both_stacks() {
        let sample = RawSample::parse(&record(1, 2, 3)).expect("a good record");
        assert_eq!((sample.kernel, sample.user), (vec![0], vec![1, 2]));
        let header = sample.header;
        assert_eq!((header.tgid, header.tid, header.cpu, header.rate), (11, 12, 1, 99));
        assert_eq!((header.time, header.tick, header.node_rate, header.walk_end), (7, 8, 499, 2));
        assert_eq!(comm_name(&header.comm), "worker 1");
    }

    #[test]
    fn a_record_that_claims_too_much_is_refused() {
        assert_eq!(RawSample::parse(&[0; 63]), Err(BadRecord::Short(63)));
        assert_eq!(RawSample::parse(&record(2, 2, 3)), Err(BadRecord::Frames { bytes: 88, frames: 4 }));
    }

    #[test]
    fn the_key_of_a_count_is_read_as_it_is_written() {
        let key = CountKey { tgid: 0x0102_0304, kind: 2, main_thread: 1, comm: *b"0123456789abcdef" };
        assert_eq!(count_key(&count_key_bytes(&key)), key);
    }

    #[test]
    fn a_hostile_name_cannot_break_a_stack() {
        assert!(!comm_name(b"a;b\nc\xff\0xxxxxxxxx").contains([';', '\n']));
        assert_eq!(comm_name(b"0123456789abcdef"), "0123456789abcdef");
    }
}
