//! What is asked for, and the checks that every query surface shares.

use super::filter::Expr;

/// The event types that are stored.
pub const EVENT_TYPES: &[&str] = &["on-cpu"];
/// The language types that are stored.
pub const LANGUAGE_TYPES: &[&str] = &["eBPF"];
/// The app service that stands for every process of every node.
pub const TOTAL: &str = "Total";
/// Longest app service that can be asked for, in bytes.
pub const MAX_APP_SERVICE_BYTES: usize = 1024;

/// A question for a flame graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Whose.
    pub subject: Subject,
    /// When.
    pub range: TimeRange,
    /// One of [`EVENT_TYPES`].
    pub event: &'static str,
    /// One of [`LANGUAGE_TYPES`].
    pub language: &'static str,
    /// Which of the rows; all if none.
    pub filter: Option<Expr>,
    /// Kernel frames kept in each stack, counted from user space on; all if none.
    pub max_kernel_frames: Option<u32>,
}

/// Whose flame graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Every process, by name and thread, without stacks.
    Total,
    /// One app service, with stacks.
    App(String),
}

/// Unix seconds, both ends inclusive, never reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// First second.
    pub from: u32,
    /// Last second.
    pub until: u32,
}

/// A part of a question that cannot be answered as it is. The text is for
/// whoever asked: what is wrong, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Invalid {
    /// As the caller spells it.
    pub field: &'static str,
    /// Continues a sentence that begins with the field's name.
    pub problem: String,
}

impl Invalid {
    /// `field` is wrong: `problem` continues the sentence.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

impl Request {
    /// For every process, whatever it did.
    pub fn of_everything(range: TimeRange) -> Self {
        Self {
            subject: Subject::Total,
            range,
            event: EVENT_TYPES[0],
            language: LANGUAGE_TYPES[0],
            filter: None,
            max_kernel_frames: None,
        }
    }
}

impl Subject {
    /// The subject that `name` asks for.
    ///
    /// # Errors
    /// If the name is empty or absurdly long.
    pub fn parse(field: &'static str, name: &str) -> Result<Self, Invalid> {
        if name.is_empty() {
            return Err(Invalid::new(field, "is empty: give a process name, or Total for all of them"));
        }
        if name.len() > MAX_APP_SERVICE_BYTES {
            return Err(Invalid::new(
                field,
                format!("has {} bytes: give at most {MAX_APP_SERVICE_BYTES}", name.len()),
            ));
        }
        Ok(match name {
            TOTAL => Self::Total,
            name => Self::App(name.to_owned()),
        })
    }

    /// What the root of the tree is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Total => TOTAL,
            Self::App(name) => name,
        }
    }
}

impl TimeRange {
    /// The range from `from` to `until`, given under these field names.
    ///
    /// # Errors
    /// If an end is not a second that can be stored, or they are reversed.
    pub fn parse(from: (&'static str, i64), until: (&'static str, i64)) -> Result<Self, Invalid> {
        let range = Self { from: unix_seconds(from)?, until: unix_seconds(until)? };
        if range.until < range.from {
            return Err(Invalid::new(
                until.0,
                format!("is {}, before {} {}: swap them, or give a later one", until.1, from.0, from.1),
            ));
        }
        Ok(range)
    }

    /// The range with `from` at the start of its window: a row's time is the
    /// start of its window, so the window that `from` lies in counts whole.
    pub fn aligned(self, window_seconds: u32) -> Self {
        Self { from: self.from - self.from % window_seconds.max(1), until: self.until }
    }
}

/// The known type that `value` names.
///
/// # Errors
/// If there is none of that name.
pub fn known_type(
    field: &'static str,
    value: &str,
    known: &'static [&'static str],
) -> Result<&'static str, Invalid> {
    known.iter().copied().find(|&k| k == value).ok_or_else(|| {
        let value: String = value.chars().take(64).collect();
        Invalid::new(field, format!("is {value:?}, which is not stored: use {}", known.join(" or ")))
    })
}

fn unix_seconds((field, value): (&'static str, i64)) -> Result<u32, Invalid> {
    if value <= 0 {
        return Err(Invalid::new(field, format!("is {value}: give Unix seconds, greater than 0")));
    }
    u32::try_from(value).map_err(|_| {
        // Past 2106: most likely milliseconds or finer.
        Invalid::new(field, format!("is {value}, too large for Unix seconds: give seconds, not milliseconds"))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check_range(from: i64, until: i64, expected: &str) {
        let text = match TimeRange::parse(("from", from), ("until", until)) {
            Ok(range) => format!("{}..{}", range.from, range.until),
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn a_range_has_two_storable_ends_in_order() {
        check_range(10, 20, "10..20");
        check_range(10, 10, "10..10");
        check_range(20, 10, "until is 10, before from 20: swap them, or give a later one");
        check_range(0, 10, "from is 0: give Unix seconds, greater than 0");
        check_range(1, -5, "until is -5: give Unix seconds, greater than 0");
        check_range(
            1_708_479_421_000,
            1,
            "from is 1708479421000, too large for Unix seconds: give seconds, not milliseconds",
        );
    }

    #[test]
    fn alignment_only_moves_the_start() {
        let range = TimeRange { from: 1_708_479_421, until: 1_708_479_429 };
        assert_eq!(range.aligned(10), TimeRange { from: 1_708_479_420, until: 1_708_479_429 });
        assert_eq!(range.aligned(1), range);
        assert_eq!(range.aligned(0), range);
    }

    #[test]
    fn total_is_a_subject_of_its_own() {
        assert_eq!(Subject::parse("app_service", "Total").unwrap(), Subject::Total);
        assert_eq!(Subject::parse("app_service", "total").unwrap(), Subject::App("total".into()));
        assert_eq!(
            Subject::parse("app_service", "").unwrap_err().to_string(),
            "app_service is empty: give a process name, or Total for all of them"
        );
    }

    #[test]
    fn an_unknown_type_is_told_what_is_known() {
        assert_eq!(
            known_type("profile_event_type", "off-cpu", EVENT_TYPES).unwrap_err().to_string(),
            "profile_event_type is \"off-cpu\", which is not stored: use on-cpu"
        );
    }
}
