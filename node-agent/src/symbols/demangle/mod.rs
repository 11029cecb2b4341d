//! Names as people write them, from names as linkers see them.
//!
//! A symbol's name comes from a file that somebody hostile may have written,
//! so every path here ends after a bounded amount of work and memory. That is
//! why the C++ side is our own: parsers that try one alternative after the
//! other take time exponential in the nesting of a name made for them.

pub mod cpp;

use std::borrow::Cow;
use std::fmt::{self, Write};

use hearth_profile::frame::MAX_FRAME_BYTES;

/// Longest mangled name that is looked at, in bytes; a longer one stays as it
/// is. Demanglers nest with the name, so this also bounds the stack they need.
pub const MAX_MANGLED_BYTES: usize = 4096;

/// The name as a person would write it: C++ without parameters and return type
/// (as `perf` shows it), Rust without the hash, everything else as it is.
///
/// A name that does not demangle, or whose text would exceed
/// [`MAX_FRAME_BYTES`], stays mangled.
pub fn demangle(name: &str) -> Cow<'_, str> {
    let bare = without_version(name);
    if bare.len() > MAX_MANGLED_BYTES {
        return Cow::Borrowed(bare);
    }
    if let Some(rust) = demangle_rust(bare) {
        return Cow::Owned(rust);
    }
    match cpp::demangle(bare) {
        Ok(text) if text.len() <= MAX_FRAME_BYTES => Cow::Owned(text),
        Ok(_) | Err(cpp::NotDemangled) => Cow::Borrowed(bare),
    }
}

/// The linker appends `@VERSION` or `@@VERSION` to versioned symbols of
/// `.symtab`; the version is no part of the function's name.
fn without_version(name: &str) -> &str {
    match name.find('@') {
        Some(at) if at > 0 => {
            let version = name[at..].trim_start_matches('@');
            let is_version = !version.is_empty()
                && version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
            if is_version { &name[..at] } else { name }
        }
        _ => name,
    }
}

fn demangle_rust(name: &str) -> Option<String> {
    // Legacy Rust names look like C++ names that end in a hash; C++ functions
    // never do, so everything else under `_ZN` is left to C++.
    let legacy = name.starts_with("_ZN") && name.contains("17h");
    if !legacy && !name.starts_with("_R") {
        return None;
    }
    let parsed = rustc_demangle::try_demangle(name).ok()?;
    let mut text = Bounded { text: String::new() };
    write!(text, "{parsed:#}").ok()?;
    Some(text.text)
}

/// Text that refuses to exceed one frame, so that a name which expands for
/// ever is abandoned.
struct Bounded {
    text: String,
}

impl Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.text.len() + s.len() > MAX_FRAME_BYTES {
            return Err(fmt::Error);
        }
        self.text.push_str(s);
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn check(mangled: &str, shown: &str) {
        assert_eq!(demangle(mangled), shown);
    }

    #[test]
    fn rust_names_lose_their_hash() {
        check("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt");
        check("_ZN3std2io5Write9write_all17h553351a860254660E.llvm.123", "std::io::Write::write_all");
        check("_RNvC6_123foo3bar", "123foo::bar");
        check(
            "_RNvMsr_NtCs3ssYzQotkvD_3std4pathNtB5_7PathBuf3newCs15kBYyAo9fc_7mycrate",
            "<std::path::PathBuf>::new",
        );
    }

    #[test]
    fn names_of_other_languages_stay() {
        check("main", "main");
        check("main.(*Server).serve", "main.(*Server).serve");
        check("github.com/a/b@v1.2/x.F", "github.com/a/b@v1.2/x.F");
        check("", "");
        check("größe", "größe");
        check("_Z", "_Z");
        check("_ZN", "_ZN");
        check("_R", "_R");
    }

    #[test]
    fn the_version_of_a_symbol_is_not_shown() {
        check("memcpy@@GLIBC_2.14", "memcpy");
        check("memcpy@GLIBC_2.2.5", "memcpy");
        check("_ZN3foo3barEv@@V1", "foo::bar");
    }

    /// Names on which a backtracking parser takes time exponential in their
    /// length, and names whose text is exponential in their length.
    #[test]
    fn a_name_that_demangles_for_ever_is_shown_as_it_is() {
        let doubling = {
            let mut name = String::from("_Z1fIiE1gISt4pairIS_S_E");
            for n in 0..60 {
                let digit = char::from_digit(n % 36, 36).unwrap().to_ascii_uppercase();
                name.push_str(&format!("St4pairIS{digit}_S{digit}_E"));
            }
            name + "Evv"
        };
        let hostile = [
            format!("_ZUlDT{}Dn3fooE", "nw".repeat(1000)),
            format!("_Znwtl{}{}", "ququSsI".repeat(200), "dn".repeat(200)),
            format!("_Z{}", "cvC1Dv1_".repeat(400)),
            format!("_Z1f{}", "I".repeat(4000)),
            format!("_Z{}", "N".repeat(4000)),
            format!("_Z{}", "Z".repeat(4000)),
            format!("_ZN1AIX{}1xEE1fEv", "nt".repeat(1900)),
            format!("_ZN1AI{}iE1fEv", "P".repeat(3900)),
            doubling,
            format!("_R{}", "YNtB_".repeat(800)),
            format!("_RIC{}", "IB_".repeat(1000)),
        ];
        for name in &hostile {
            let began = Instant::now();
            let shown = demangle(name);
            assert!(shown.len() <= MAX_FRAME_BYTES.max(name.len()));
            assert!(began.elapsed() < Duration::from_secs(1), "{} took {:?}", &name[..20], began.elapsed());
        }
    }
}
