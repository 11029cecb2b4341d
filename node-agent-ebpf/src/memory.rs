//! Memory of the process that is being walked, read a piece at a time.

/// 64-bit words that are read at once; a power of two, so that an index can be masked
/// in a way the verifier follows. The frames of a stack lie beside each other: 256 bytes
/// hold two to eight of them, and one long read costs hardly more than a short one.
pub const PIECE_WORDS: usize = 32;
const _: () = assert!(PIECE_WORDS.is_power_of_two());
/// Distance from a piece's start to the last pair of words in it.
const LAST_PAIR: u64 = (PIECE_WORDS as u64 - 2) * 8;
/// The start of no piece: farther than a piece from every address of user space.
const NOWHERE: u64 = 1 << 63;

/// Words of memory, two at a time: a frame record is two words (the caller's frame
/// pointer and the return address).
pub trait Memory {
    /// The two 64-bit words at `address`, a multiple of eight below 2^47, or nothing
    /// where they cannot be read.
    fn read_pair(&mut self, address: u64) -> Option<(u64, u64)>;
}

/// Where the memory comes from.
pub trait Source {
    /// Copies what is at `address`; false if any of it cannot be read. `to` then holds anything.
    fn copy<const WORDS: usize>(&self, address: u64, to: &mut [u64; WORDS]) -> bool;
}

/// Memory that is read by pieces and remembers the last one.
#[repr(C)]
pub struct Pieces<'a, S> {
    start: u64,
    piece: &'a mut [u64; PIECE_WORDS],
    source: S,
}

impl<'a, S> Pieces<'a, S> {
    /// Nothing read yet; `piece` is the room for it.
    #[inline(always)]
    pub fn new(source: S, piece: &'a mut [u64; PIECE_WORDS]) -> Self {
        Self { start: NOWHERE, piece, source }
    }
}

impl<S: Source> Memory for Pieces<'_, S> {
    #[inline(always)]
    fn read_pair(&mut self, address: u64) -> Option<(u64, u64)> {
        if address.wrapping_sub(self.start) > LAST_PAIR {
            self.start = address;
            if !self.source.copy(address, self.piece) {
                // The piece reaches beyond the end of the stack.
                self.start = NOWHERE;
                let mut pair = [0; 2];
                return self.source.copy(address, &mut pair).then_some((pair[0], pair[1]));
            }
        }
        let index = (address.wrapping_sub(self.start) / 8) as usize;
        Some((self.piece[index & (PIECE_WORDS - 1)], self.piece[(index + 1) & (PIECE_WORDS - 1)]))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::cell::RefCell;
    use std::vec::Vec;

    use super::*;

    const BASE: u64 = 0x7fff_0000_1000;

    /// `words` words from `BASE` on, each with its own address in it; notes what is asked for.
    struct Stack<'a> {
        words: u64,
        asked: &'a RefCell<Vec<(u64, usize)>>,
    }

    impl Source for Stack<'_> {
        fn copy<const WORDS: usize>(&self, address: u64, to: &mut [u64; WORDS]) -> bool {
            self.asked.borrow_mut().push(((address - BASE) / 8, WORDS));
            let end = address + 8 * WORDS as u64;
            for (to, at) in to.iter_mut().zip((address..end).step_by(8)) {
                *to = at;
            }
            end <= BASE + 8 * self.words
        }
    }

    /// Reads pairs at these words of a stack; what was asked of the source, as (word, words).
    fn check(words: u64, read: &[u64], expected: &[(u64, usize)]) {
        let asked = RefCell::default();
        let mut piece = [0; PIECE_WORDS];
        let mut memory = Pieces::new(Stack { words, asked: &asked }, &mut piece);
        for word in read {
            let at = BASE + 8 * word;
            let expected = (word + 2 <= words).then_some((at, at + 8));
            assert_eq!(memory.read_pair(at), expected, "word {word}");
        }
        assert_eq!(*asked.borrow(), expected, "reading {read:?} of {words}");
    }

    #[test]
    fn what_lies_in_the_piece_is_not_read_again() {
        check(100, &[0, 6, 30], &[(0, 32)]);
        check(100, &[4, 35], &[(4, 32), (35, 32)]);
        check(100, &[4, 0, 4], &[(4, 32), (0, 32)]);
    }

    #[test]
    fn at_the_end_of_the_stack_only_the_pair_is_read() {
        check(40, &[0, 10, 38, 36], &[(0, 32), (38, 32), (38, 2), (36, 32), (36, 2)]);
        check(40, &[39], &[(39, 32), (39, 2)]);
    }
}
