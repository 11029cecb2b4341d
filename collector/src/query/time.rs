//! Unix seconds as people read them.

/// `2026-11-22 22:40:00 UTC`.
pub fn utc(unix_seconds: u32) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);

    let mut year = 1970;
    let mut day_of_year = days;
    while day_of_year >= days_of(year) {
        day_of_year -= days_of(year);
        year += 1;
    }
    let february = days_of(year) - 337;
    let mut month = 1;
    let mut day = day_of_year;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", day + 1)
}

/// The reverse of [`utc`], without its ` UTC`: so many units since 1970, with so many in a second.
/// A fraction of a second may follow in as many digits as the unit has, at most six.
pub(super) fn parse_utc(text: &str, per_second: i64) -> Option<i64> {
    let (text, fraction) = match text.split_once('.') {
        Some((text, digits)) => (text, Some(digits)),
        None => (text, None),
    };
    // 2026-11-22 22:40:00
    let separators = [(4, '-'), (7, '-'), (10, ' '), (13, ':'), (16, ':')];
    if text.len() != 19 || !text.is_ascii() || separators.iter().any(|&(at, c)| !text[at..].starts_with(c)) {
        return None;
    }
    let number = |digits: &str| -> Option<u32> {
        if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let part = |from: usize, to: usize| number(&text[from..to]);
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    if !(1970..=2105).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let lengths = [31, days_of(year) - 337, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    if !(1..=*lengths.get(month)?).contains(&day) {
        return None;
    }
    let days = (1970..year).map(days_of).sum::<u32>() + lengths[..month].iter().sum::<u32>() + day - 1;
    let seconds = i64::from(days) * 86_400 + i64::from(hour * 3600 + minute * 60 + second);
    let fraction = match fraction {
        None => 0,
        Some(digits) if per_second == 1_000_000 && (1..=6).contains(&digits.len()) => {
            i64::from(number(digits)?) * 10_i64.pow(6 - u32::try_from(digits.len()).ok()?)
        }
        Some(_) => return None,
    };
    Some(seconds * per_second + fraction)
}

fn days_of(year: u32) -> u32 {
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    if leap { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (unix, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_708_479_421, "2024-02-21 01:37:01 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (u32::MAX, "2106-02-07 06:28:15 UTC"),
        ] {
            assert_eq!(utc(unix), text);
            let date = text.trim_end_matches(" UTC");
            let back = parse_utc(date, 1);
            assert_eq!(back, if date.starts_with("2106") { None } else { Some(i64::from(unix)) });
        }
    }

    #[test]
    fn a_fraction_is_for_finer_units() {
        assert_eq!(parse_utc("1970-01-01 00:00:02", 1_000_000), Some(2_000_000));
        assert_eq!(parse_utc("1970-01-01 00:00:02.5", 1_000_000), Some(2_500_000));
        assert_eq!(parse_utc("1970-01-01 00:00:02.000001", 1_000_000), Some(2_000_001));
        assert_eq!(parse_utc("1970-01-01 00:00:02.0000001", 1_000_000), None);
        assert_eq!(parse_utc("1970-01-01 00:00:02.", 1_000_000), None);
        assert_eq!(parse_utc("1970-01-01 00:00:02.5", 1), None);
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "2024-02-21",
            "2024-02-21T01:37:01",
            "2024-02-30 00:00:00",
            "2023-02-29 00:00:00",
            "2024-13-01 00:00:00",
            "2024-00-01 00:00:00",
            "2024-01-00 00:00:00",
            "2024-01-01 24:00:00",
            "2024-01-01 00:60:00",
            "2024-01-01 00:00:60",
            "1969-12-31 23:59:59",
            "+024-01-01 00:00:00",
            "2024-01-01 00:00:0é",
            "2024-01-01 00:00:00 UTC",
        ] {
            assert_eq!(parse_utc(text, 1), None, "{text}");
        }
    }
}
