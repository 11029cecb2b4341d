//! Ranges of time as people write them.

use std::str::FromStr;

use k8s_openapi::jiff::Timestamp;

use crate::error::Failure;

/// What a range is when none is given.
const DEFAULT_SPAN: Span = Span(15 * 60);
/// A range that nobody gave the start of begins with a window of this many seconds, so that no note says it was moved.
const WINDOW: i64 = 10;

/// A length of time in seconds: `90s`, `15m`, `6h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub i64);

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Unix seconds.
    At(i64),
    /// So long before now.
    Ago(Span),
}

/// Both ends in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its start.
    pub from: i64,
    /// Its end, which counts.
    pub until: i64,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || "write a number and s, m, h or d, such as 15m".to_owned();
        let unit = match text.as_bytes().last() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3600,
            Some(b'd') => 86_400,
            _ => return Err(error()),
        };
        let digits = &text[..text.len() - 1];
        if !(1..=7).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let number: i64 = digits.parse().map_err(|_| error())?;
        if number == 0 { Err("must be more than nothing".to_owned()) } else { Ok(Self(number * unit)) }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "now" {
            return Ok(Self::Ago(Span(0)));
        }
        if let Some(span) = text.strip_prefix('-').and_then(|span| span.parse().ok()) {
            return Ok(Self::Ago(span));
        }
        if let Ok(seconds @ 1..) = text.parse::<i64>() {
            return Ok(Self::At(seconds));
        }
        let moment = text.parse::<Timestamp>();
        moment.map(|moment| Self::At(moment.as_second())).map_err(|_| {
            "write a time as 2026-02-21T05:37:00Z, as Unix seconds, or as so long ago: -15m".to_owned()
        })
    }
}

impl Moment {
    fn at(self, now: i64) -> i64 {
        match self {
            Self::At(seconds) => seconds,
            Self::Ago(Span(seconds)) => now.saturating_sub(seconds),
        }
    }
}

impl Range {
    /// Of what was given, `since` or one or both ends; usually the last 15 minutes.
    ///
    /// # Errors
    /// It would end before it begins.
    pub fn new(
        since: Option<Span>,
        from: Option<Moment>,
        until: Option<Moment>,
        now: i64,
    ) -> Result<Self, Failure> {
        let end = until.map_or(now, |until| until.at(now));
        let start = match from {
            Some(from) => from.at(now),
            None => {
                let from = end.saturating_sub(since.unwrap_or(DEFAULT_SPAN).0);
                (from - from.rem_euclid(WINDOW)).max(1)
            }
        };
        if end < start {
            let (from, until) = (utc(start), utc(end));
            return Err(Failure::Usage(format!("--until is {until}, before --from {from}: swap them")));
        }
        Ok(Self { from: start, until: end })
    }

    /// The same range so much earlier.
    pub fn before(self, Span(seconds): Span) -> Self {
        Self { from: self.from.saturating_sub(seconds), until: self.until.saturating_sub(seconds) }
    }

    /// Seconds from one end to the other, at least one.
    pub fn seconds(self) -> i64 {
        self.until.saturating_sub(self.from).max(1)
    }
}

/// `2024-02-21 05:37:00 UTC`.
pub fn utc(seconds: i64) -> String {
    let moment = Timestamp::from_second(seconds).unwrap_or_default();
    moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A length of time as people say it: its largest unit that fills it, rounded down.
pub(crate) fn about(seconds: i64) -> String {
    match seconds {
        ..0 => "0 s".to_owned(),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_005;

    fn check(
        since: Option<&str>,
        from: Option<&str>,
        until: Option<&str>,
        expected: Result<(i64, i64), &str>,
    ) {
        let moment = |text: Option<&str>| text.map(|text| text.parse::<Moment>().expect(text));
        let since = since.map(|text| text.parse::<Span>().expect(text));
        let range = Range::new(since, moment(from), moment(until), NOW);
        let range = range.map(|range| (range.from, range.until)).map_err(|failure| failure.to_string());
        assert_eq!(range, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_range_has_two_ends_whatever_is_given() {
        check(None, None, None, Ok((1_699_999_100, NOW)));
        check(Some("1h"), None, None, Ok((1_699_996_400, NOW)));
        check(Some("1h"), None, Some("-1h"), Ok((1_699_992_800, NOW - 3600)));
        check(None, Some("-75m"), Some("-60m"), Ok((NOW - 4500, NOW - 3600)));
        check(None, Some("1699999999"), Some("now"), Ok((1_699_999_999, NOW)));
        check(None, Some("2023-11-14T22:13:20Z"), None, Ok((1_700_000_000, NOW)));
        check(None, Some("2023-11-14T23:13:20+01:00"), None, Ok((1_700_000_000, NOW)));
        let swapped = "--until is 2023-11-14 21:13:25 UTC, before --from 2023-11-14 22:12:25 UTC: swap them";
        check(None, Some("-1m"), Some("-1h"), Err(swapped));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "m", "15", "-5m", "15 m", "1.5h", "0s", "5y", "99999999s", "é"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for text in ["", "yesterday", "-", "-15", "0", "15m", "2023-11-14"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
