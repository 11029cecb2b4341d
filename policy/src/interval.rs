//! A length of time as policies write it: `600s`, `10m`, `1h`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whole seconds, written `^[0-9]{1,5}(s|m|h)$`. Keeps what was written, so that a policy reads back unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval {
    text: String,
    seconds: u32,
}

/// The text is not an interval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {text:?}, which is no interval (one to five digits and s, m or h)")]
pub struct IntervalError {
    text: String,
}

impl Interval {
    /// An interval of so many seconds, written with `s`.
    pub fn from_seconds(seconds: u32) -> Self {
        Self { text: format!("{seconds}s"), seconds }
    }

    /// Its length in seconds; at most 99,999 hours.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// Reads `600s`, `10m` or `1h`.
    pub fn parse(text: &str) -> Result<Self, IntervalError> {
        let error = || IntervalError { text: text.chars().take(40).collect() };
        let unit = match text.as_bytes().last() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3600,
            _ => return Err(error()),
        };
        let digits = &text[..text.len() - 1];
        if !(1..=5).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let number: u32 = digits.parse().map_err(|_| error())?;
        Ok(Self { text: text.to_owned(), seconds: number * unit })
    }
}

impl TryFrom<String> for Interval {
    type Error = IntervalError;

    fn try_from(text: String) -> Result<Self, IntervalError> {
        Self::parse(&text)
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        interval.text
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None`: refused.
    fn check(text: &str, seconds: Option<u32>) {
        assert_eq!(Interval::parse(text).ok().map(|i| i.seconds()), seconds, "{text:?}");
    }

    #[test]
    fn one_to_five_digits_and_a_unit() {
        check("5s", Some(5));
        check("10m", Some(600));
        check("24h", Some(86_400));
        check("99999h", Some(359_996_400));
        check("00001s", Some(1));
        for refused in ["", "s", "5", "5 s", "100000s", "-5s", "+5s", "1.5m", "5S", "5d", "5ms", "é", "٣s"]
        {
            check(refused, None);
        }
    }
}
