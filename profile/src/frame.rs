//! Frames as text: how a name is made storable, and the names that stand for
//! what could not be named.
//!
//! A frame is stored with its prefix ([`KERNEL`], [`LIBRARY`], or none for the
//! application's own code). Frames of one stack are joined by `;`, root first;
//! therefore no stored frame contains a `;` ([`clean_frame`]).

use std::borrow::Cow;

/// Prefix of a kernel function.
pub const KERNEL: &str = "[k] ";
/// Prefix of a function in a shared library (a module whose path contains `.so`).
pub const LIBRARY: &str = "[l] ";
/// Prefix of a thread. Added by the query, never stored.
pub const THREAD: &str = "[t] ";
/// Prefix of a process. Added by the query, never stored.
pub const PROCESS: &str = "[p] ";

/// The stack could not be walked; the time is real.
pub const STACK_TRACE_LOST: &str = "[stack trace lost]";
/// The stack was deeper than the limit; callers above this point are missing.
pub const TRUNCATED: &str = "[truncated]";
/// A sample that a full table or buffer kept only as time.
pub const LOST: &str = "[lost]";
/// Time of rows that exceeded the row budget of the node and window.
pub const OVER_BUDGET: &str = "[over budget]";
/// An address in no known module, beyond the bound on different ones.
pub const UNKNOWN: &str = "[unknown]";
/// An address in no known module where the thread's entry is expected.
pub const UNKNOWN_START_THREAD: &str = "[unknown start_thread?]";
/// As stored: an address that a JVM's symbol file should name and does not.
/// The pid is left out so that replicas of a program share their stacks;
/// [`with_pid`] puts the row's in.
pub const PERF_MAP_FRAME: &str = "[/tmp/perf-PID.map]";

/// Most bytes of one stored frame.
pub const MAX_FRAME_BYTES: usize = 4096;

/// What `cpu` holds when the policy does not keep the CPU number.
pub const CPU_INVALID: u16 = 0xfff;

/// Makes a name storable as one frame.
///
/// `;` becomes `:` (it separates frames), control characters become `?` (a
/// newline would end a line of folded text), and what exceeds
/// [`MAX_FRAME_BYTES`] is cut at a character boundary. The empty name becomes
/// [`UNKNOWN`]. Borrows when nothing had to change.
pub fn clean_frame(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        return Cow::Borrowed(UNKNOWN);
    }
    let bounded = &name[..name.floor_char_boundary(MAX_FRAME_BYTES)];
    if !bounded.contains(|c: char| c == ';' || c.is_control()) {
        return Cow::Borrowed(bounded);
    }
    // A control character may take two bytes (U+0080 to U+009F) and `?` takes
    // one, so the bound still holds.
    Cow::Owned(
        bounded
            .chars()
            .map(|c| match c {
                ';' => ':',
                c if c.is_control() => '?',
                c => c,
            })
            .collect(),
    )
}

/// The frame of an address that is in no known module: 16 hex digits.
pub fn unknown_address(address: u64) -> String {
    format!("{UNKNOWN} 0x{address:016x}")
}

/// The frame as shown for a row of process `pid`: [`PERF_MAP_FRAME`] gets the
/// pid, every other frame stays as it is.
pub fn with_pid(frame: &str, pid: u32) -> Cow<'_, str> {
    if frame == PERF_MAP_FRAME { Cow::Owned(format!("[/tmp/perf-{pid}.map]")) } else { Cow::Borrowed(frame) }
}

/// Whether a stored frame says where an address is and not what it is called:
/// [`UNKNOWN`] with or without the address, [`UNKNOWN_START_THREAD`], or the
/// module, such as `[/lib/ld-musl-x86_64.so.1]`, `[vdso]` and [`PERF_MAP_FRAME`].
pub fn is_unresolved(frame: &str) -> bool {
    let name = [KERNEL, LIBRARY].iter().find_map(|prefix| frame.strip_prefix(prefix)).unwrap_or(frame);
    // These stand for no address at all.
    let no_address = || [STACK_TRACE_LOST, TRUNCATED, LOST, OVER_BUDGET].contains(&name);
    name.starts_with('[') && (name.starts_with(UNKNOWN) || name.ends_with(']') && !no_address())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(name: &str, stored: &str) {
        assert_eq!(clean_frame(name), stored);
    }

    #[test]
    fn a_name_becomes_one_frame() {
        check("std::vec::Vec<T>::push", "std::vec::Vec<T>::push");
        check("a;b", "a:b");
        check("a\nb\tc\u{0}\u{7f}\u{85}", "a?b?c???");
        check("größe", "größe");
        check("", "[unknown]");
    }

    #[test]
    fn a_clean_name_is_borrowed() {
        assert!(matches!(clean_frame("main"), Cow::Borrowed("main")));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = format!("{}é", "x".repeat(MAX_FRAME_BYTES - 1));
        assert_eq!(clean_frame(&long), "x".repeat(MAX_FRAME_BYTES - 1));
    }

    #[test]
    fn unknown_addresses_have_sixteen_digits() {
        assert_eq!(unknown_address(0x3932388), "[unknown] 0x0000000003932388");
        assert_eq!(unknown_address(u64::MAX), "[unknown] 0xffffffffffffffff");
    }

    #[test]
    fn only_the_perf_map_frame_gets_the_pid() {
        assert_eq!(with_pid(PERF_MAP_FRAME, 29887), "[/tmp/perf-29887.map]");
        assert_eq!(with_pid("main", 29887), "main");
        assert_eq!(with_pid("[l] perf-PID.map", 1), "[l] perf-PID.map");
    }

    #[test]
    fn what_has_no_name_is_told_from_what_has_no_address() {
        for frame in [
            UNKNOWN,
            UNKNOWN_START_THREAD,
            PERF_MAP_FRAME,
            &unknown_address(7),
            "[k] [unknown]",
            "[/usr/local/bin/kube-apiserver]",
            "[l] [/lib/libc.so.6]",
            "[vdso]",
        ] {
            assert!(is_unresolved(frame), "{frame}");
        }
        for frame in [
            STACK_TRACE_LOST,
            TRUNCATED,
            LOST,
            OVER_BUDGET,
            "main",
            "[k] read",
            "[l] read",
            "a[1]",
            "[T]::sort",
        ] {
            assert!(!is_unresolved(frame), "{frame}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_name_the_frame_is_storable(name in "\\PC*|(.|\n){0,40}|(;|\u{85}|é){0,5000}") {
            let frame = clean_frame(&name);
            prop_assert!(!frame.is_empty() && frame.len() <= MAX_FRAME_BYTES);
            prop_assert!(!frame.contains(';') && !frame.chars().any(char::is_control));
            let again = clean_frame(&frame).into_owned();
            prop_assert_eq!(again, frame.into_owned());
        }
    }
}
