//! Why an answer is empty.

use clickhouse::Row;
use serde::Deserialize;

use super::request::{Request, Subject, TimeRange};
use super::time::utc;

/// A row of [`super::plan::seen`].
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct SeenApp {
    /// Empty for the processes that no policy matched.
    pub app_service: String,
    /// Unix seconds.
    pub first_seen: u32,
    /// Unix seconds.
    pub last_seen: u32,
    /// Rows in the range that was asked for.
    pub rows_in_range: u64,
}

/// What a process name holds at most: the kernel cuts it.
const COMM_BYTES: usize = 15;
/// Names given as alternatives.
const SUGGESTIONS: usize = 5;

/// Why `request` found nothing in `range`, from everything that is stored of
/// its event and language type.
pub fn reason(request: &Request, range: TimeRange, seen: &[SeenApp]) -> String {
    let between = format!("between {} and {}", utc(range.from), utc(range.until));
    let Some(latest) = seen.iter().map(|s| s.last_seen).max() else {
        return format!(
            "nothing is stored: no agent has sent {} samples yet, or all of them are older than the retention",
            request.event
        );
    };
    let in_range: Vec<&str> =
        seen.iter().filter(|s| s.rows_in_range > 0).map(|s| s.app_service.as_str()).collect();
    let Subject::App(asked) = &request.subject else {
        return if in_range.is_empty() {
            format!("no samples {between}; the latest is of {}", utc(latest))
        } else {
            format!("there are samples {between}, but the filter matches none of them")
        };
    };

    if in_range.contains(&asked.as_str()) {
        return format!("app_service {asked:?} has samples {between}, but the filter matches none of them");
    }
    if let Some(SeenApp { first_seen, last_seen, .. }) = seen.iter().find(|s| s.app_service == *asked) {
        return format!(
            "app_service {asked:?} has no samples {between}; the first is of {}, the last of {}",
            utc(*first_seen),
            utc(*last_seen)
        );
    }

    let mut parts = vec![format!("no app_service {asked:?} is stored")];
    let names: Vec<&str> = seen.iter().map(|s| s.app_service.as_str()).filter(|n| !n.is_empty()).collect();
    let cut = &asked[..asked.floor_char_boundary(COMM_BYTES)];
    if asked.len() > COMM_BYTES {
        let known = if names.contains(&cut) { ", which is stored" } else { "" };
        parts.push(format!("a process name has at most {COMM_BYTES} bytes: this one is {cut:?}{known}"));
    }
    let alike = alike(asked, &names);
    let alike: Vec<&str> = alike.into_iter().filter(|n| *n != cut).take(SUGGESTIONS).collect();
    if !alike.is_empty() {
        parts.push(format!("like it: {}", alike.join(", ")));
    } else if in_range.is_empty() {
        parts.push(format!(
            "nothing else is stored {between} either; the latest sample is of {}",
            utc(latest)
        ));
    } else if asked.len() <= COMM_BYTES {
        let there: Vec<&str> = in_range.iter().copied().filter(|n| !n.is_empty()).take(SUGGESTIONS).collect();
        parts.push(match there.as_slice() {
            [] => "only processes that no policy matches are stored: see them under Total".to_owned(),
            names => format!("stored {between} are, for example: {}", names.join(", ")),
        });
    }
    parts.join("; ")
}

/// The names that resemble `asked`, the nearest first.
fn alike<'a>(asked: &str, names: &[&'a str]) -> Vec<&'a str> {
    let asked = asked.to_lowercase();
    let mut found: Vec<(usize, &str)> = names
        .iter()
        .filter_map(|&name| {
            let lower = name.to_lowercase();
            let distance = edit_distance(&asked, &lower);
            let prefix = lower.starts_with(&asked) || asked.starts_with(&lower);
            let near = distance <= asked.chars().count().div_ceil(4).min(3);
            (prefix || near).then_some((distance, name))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, name)| name).collect()
}

/// Insertions, deletions and substitutions from one to the other; only the
/// first 64 characters count, which bounds the work.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::query::filter;

    const RANGE: TimeRange = TimeRange { from: 1000, until: 2000 };

    /// `name rows`: seen within the range if rows, otherwise at 10 to 500. `-` is no name.
    fn check(asked: &str, tag_filter: &str, seen: &str, expected: &str) {
        let seen: Vec<SeenApp> = seen
            .split_terminator(',')
            .map(|entry| {
                let (name, rows) = entry.trim().split_once(' ').unwrap();
                let rows_in_range = rows.parse().unwrap();
                let (first_seen, last_seen) = if rows_in_range > 0 { (1500, 1600) } else { (10, 500) };
                let app_service = if name == "-" { "" } else { name }.to_owned();
                SeenApp { app_service, first_seen, last_seen, rows_in_range }
            })
            .collect();
        let request = Request {
            subject: Subject::parse("app_service", asked).unwrap(),
            range: RANGE,
            event: "on-cpu",
            language: "eBPF",
            filter: filter::parse(tag_filter).unwrap(),
            max_kernel_frames: None,
        };
        let text = reason(&request, RANGE, &seen);
        assert_eq!(
            text.replace("between 1970-01-01 00:16:40 UTC and 1970-01-01 00:33:20 UTC", "in the range"),
            expected
        );
    }

    #[test]
    fn an_empty_store_says_so() {
        let expected = "nothing is stored: no agent has sent on-cpu samples yet, \
                        or all of them are older than the retention";
        check("redis-server", "", "", expected);
        check("Total", "", "", expected);
    }

    #[test]
    fn an_app_of_another_time_says_when() {
        check(
            "redis-server",
            "",
            "redis-server 0, sh 3",
            "app_service \"redis-server\" has no samples in the range; \
             the first is of 1970-01-01 00:00:10 UTC, the last of 1970-01-01 00:08:20 UTC",
        );
    }

    #[test]
    fn a_filter_that_matches_nothing_is_named() {
        check(
            "redis-server",
            "pod = 'x'",
            "redis-server 2",
            "app_service \"redis-server\" has samples in the range, but the filter matches none of them",
        );
        check(
            "Total",
            "pod = 'x'",
            "sh 2",
            "there are samples in the range, but the filter matches none of them",
        );
    }

    #[test]
    fn total_says_when_there_was_something() {
        check("Total", "", "- 0", "no samples in the range; the latest is of 1970-01-01 00:08:20 UTC");
    }

    #[test]
    fn a_slip_of_the_pen_is_told_the_name() {
        let like = "no app_service \"redis-srver\" is stored; like it: redis-server";
        check("redis-srver", "", "redis-server 2, nginx 5", like);
        check(
            "Redis",
            "",
            "redis-server 2, redis-benchmark 1, nginx 5",
            "no app_service \"Redis\" is stored; like it: redis-server, redis-benchmark",
        );
    }

    #[test]
    fn a_name_too_long_for_a_process_is_told_the_cut_one() {
        check(
            "process-exporter",
            "",
            "process-exporte 2",
            "no app_service \"process-exporter\" is stored; \
             a process name has at most 15 bytes: this one is \"process-exporte\", which is stored",
        );
        check(
            "my-very-long-service",
            "",
            "sh 2",
            "no app_service \"my-very-long-service\" is stored; \
             a process name has at most 15 bytes: this one is \"my-very-long-se\"",
        );
    }

    #[test]
    fn an_unlike_name_is_told_what_there_is() {
        check(
            "postgres",
            "",
            "- 9, nginx 5, sh 1, java 0",
            "no app_service \"postgres\" is stored; stored in the range are, for example: nginx, sh",
        );
        check(
            "postgres",
            "",
            "nginx 0",
            "no app_service \"postgres\" is stored; nothing else is stored in the range either; \
             the latest sample is of 1970-01-01 00:08:20 UTC",
        );
        check(
            "postgres",
            "",
            "- 9",
            "no app_service \"postgres\" is stored; \
             only processes that no policy matches are stored: see them under Total",
        );
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, distance) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("flaw", "lawn", 2)] {
            assert_eq!((edit_distance(a, b), edit_distance(b, a)), (distance, distance));
        }
    }
}
