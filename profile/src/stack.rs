//! Stack ids: the same text has the same id on every node and in every version.

use std::fmt;
use std::str::FromStr;

/// Identifies the frames of one stack: see [`stack_id`].
///
/// Shown and parsed as 32 hex digits, stored as the 16 bytes that these are.
/// 0 is no stack: none was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StackId(pub u128);

impl StackId {
    /// The id of rows for which no stack was asked.
    pub const NONE: StackId = StackId(0);

    /// As it is stored: big-endian.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// Text that is not 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stack id {text:?} is not 32 hex digits")]
pub struct InvalidStackId {
    text: String,
}

/// The id of a stack: the first 16 bytes, as a big-endian number, of BLAKE3
/// over, for each frame from root to leaf, a u32 little-endian length and the
/// frame's text as stored (prefix included).
///
/// The length keeps `["ab", "c"]` and `["a", "bc"]` apart. Threads, processes
/// and how the walk ended are no part of it.
///
/// ```
/// let id = hearth_profile::stack::stack_id(["main", "work", "[l] memcpy", "[k] asm_exc_page_fault"]);
/// assert_eq!(id.to_string(), "333c61211c7c7d136fc8ad1cc7b50ffe");
/// ```
pub fn stack_id<I>(frames: I) -> StackId
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let mut hasher = blake3::Hasher::new();
    for frame in frames {
        let text = frame.as_ref().as_bytes();
        let length = u32::try_from(text.len()).expect("a frame is bounded far below 4 GiB");
        hasher.update(&length.to_le_bytes());
        hasher.update(text);
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    StackId(u128::from_be_bytes(first))
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for StackId {
    type Err = InvalidStackId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // from_str_radix alone would take a leading "+".
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u128::from_str_radix(text, 16)
            .ok()
            .filter(|_| digits)
            .map(StackId)
            .ok_or_else(|| InvalidStackId { text: text.chars().take(64).collect() })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(folded: &str, id: &str) {
        assert_eq!(stack_id(folded.split(';')).to_string(), id);
    }

    #[test]
    fn ids_are_the_documented_ones() {
        check("main;work;[l] memcpy;[k] asm_exc_page_fault", "333c61211c7c7d136fc8ad1cc7b50ffe");
    }

    #[test]
    fn frame_borders_count() {
        assert_ne!(stack_id(["ab", "c"]), stack_id(["a", "bc"]));
        assert_ne!(stack_id(["ab"]), stack_id(["ab", ""]));
    }

    #[test]
    fn only_32_hex_digits_are_an_id() {
        for text in ["", "1", "+33c61211c7c7d136fc8ad1cc7b50ffe", "333c61211c7c7d136fc8ad1cc7b50ffg"] {
            assert_eq!(
                text.parse::<StackId>().unwrap_err().to_string(),
                format!("stack id {text:?} is not 32 hex digits")
            );
        }
    }

    proptest! {
        #[test]
        fn different_frames_have_different_ids(
            a in prop::collection::vec("[ab;]{0,3}", 0..4),
            b in prop::collection::vec("[ab;]{0,3}", 0..4),
        ) {
            prop_assert_eq!(a == b, stack_id(&a) == stack_id(&b));
        }

        #[test]
        fn order_counts(frames in prop::collection::vec("[a-c]{1,2}", 0..6)) {
            let reversed: Vec<_> = frames.iter().rev().cloned().collect();
            prop_assert_eq!(frames == reversed, stack_id(&frames) == stack_id(&reversed));
        }

        #[test]
        fn text_round_trips(id: u128) {
            prop_assert_eq!(StackId(id).to_string().parse::<StackId>().unwrap(), StackId(id));
        }
    }
}
