//! Why an answer is empty.

use clickhouse::Row;
use serde::Deserialize;

use super::request::{Request, Subject, TOTAL};
use super::source::Sources;
use super::time::utc;

/// A row of [`super::plan::seen`], [`super::plan::seen_app`] and [`super::plan::seen_ever`].
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

/// What is stored of the event and language type of a question. `None` is what
/// was too much to look through, or need not be known.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The app that was asked for, at any time: one or none.
    pub asked: Option<Vec<SeenApp>>,
    /// What has rows in the range.
    pub in_range: Option<Vec<SeenApp>>,
    /// What was seen at any time.
    pub ever: Option<Vec<SeenApp>>,
}

/// What a process name holds at most: the kernel cuts it.
const COMM_BYTES: usize = 15;
/// Nothing in the range can be asked for by its name.
const ONLY_UNMATCHED: &str = "only processes that no policy matches are stored: see them under Total";
/// Names given as alternatives.
const SUGGESTIONS: usize = 5;

/// Whether an app of `seen` is called about as the one asked for.
pub fn resembles(request: &Request, seen: &[SeenApp]) -> bool {
    matches!(&request.subject, Subject::App(asked) if !alike(asked, &names(seen)).is_empty())
}

/// Why `request` found nothing in `sources`.
pub fn reason(request: &Request, sources: &Sources, seen: &Seen) -> String {
    let (range, place) = (sources.range(), sources.scope().place());
    let between = format!("between {} and {}", utc(range.from), utc(range.until));
    if seen.ever.as_ref().is_some_and(Vec::is_empty) {
        return format!(
            "nothing is stored{place}: no agent has sent {} samples yet, or all of them are older than the retention",
            request.event
        );
    }
    // What the question did not find and is there now, without a filter, came
    // in between.
    let but = match &request.filter {
        Some(_) => "but the filter matches none of them",
        None => "which arrived just now: ask again",
    };
    let latest = seen.ever.iter().flatten().map(|app| app.last_seen).max().map(utc);
    match &request.subject {
        Subject::Total if seen.in_range.as_ref().is_some_and(|apps| !apps.is_empty()) => {
            format!("there are samples {between}, {but}")
        }
        Subject::Total => {
            let matched = if request.filter.is_some() && seen.in_range.is_none() {
                " that the filter matches"
            } else {
                ""
            };
            let latest = latest.map(|latest| format!("; the latest is of {latest}")).unwrap_or_default();
            format!("no samples {between}{matched}{latest}")
        }
        Subject::App(app) => match seen.asked.as_deref() {
            None => format!(
                "app_service {app:?} has no samples {between}{}; \
                 whether it has others was too much to look through",
                if request.filter.is_some() { " that the filter matches" } else { "" }
            ),
            Some([SeenApp { rows_in_range: 1.., .. }, ..]) => {
                format!("app_service {app:?} has samples {between}, {but}")
            }
            Some([SeenApp { first_seen, last_seen, .. }, ..]) => format!(
                "app_service {app:?} has no samples {between}; the first is of {}, the last of {}",
                utc(*first_seen),
                utc(*last_seen)
            ),
            Some([]) => not_stored(app, place, &between, latest, seen),
        },
    }
}

/// Why nothing that can be asked for by its name was found in `sources`, of which `request` asks for everything.
pub fn no_apps(request: &Request, sources: &Sources, seen: &Seen) -> String {
    match seen.in_range.as_deref() {
        Some(apps) if !apps.is_empty() && names(apps).is_empty() => ONLY_UNMATCHED.to_owned(),
        _ => reason(request, sources, seen),
    }
}

fn not_stored(asked: &str, place: &str, between: &str, latest: Option<String>, seen: &Seen) -> String {
    let in_range = seen.in_range.as_deref();
    let known = names(seen.ever.as_deref().or(in_range).unwrap_or_default());
    let mut parts = vec![format!("no app_service {asked:?} is stored{place}")];
    let cut = &asked[..asked.floor_char_boundary(COMM_BYTES)];
    if asked.len() > COMM_BYTES {
        let stored = if known.contains(&cut) { ", which is stored" } else { "" };
        parts.push(format!("a process name has at most {COMM_BYTES} bytes: this one is {cut:?}{stored}"));
    }
    let alike = alike(asked, &known);
    let alike: Vec<&str> = alike.into_iter().filter(|n| *n != cut).take(SUGGESTIONS).collect();
    if !alike.is_empty() {
        parts.push(format!("like it: {}", alike.join(", ")));
        return parts.join("; ");
    }
    match in_range {
        Some([]) => {
            let latest = latest.map(|latest| format!("; the latest sample is of {latest}"));
            parts.push(format!("nothing else is stored {between} either{}", latest.unwrap_or_default()));
        }
        Some(apps) if asked.len() <= COMM_BYTES => {
            let there: Vec<&str> = names(apps).into_iter().take(SUGGESTIONS).collect();
            parts.push(match there.as_slice() {
                [] => ONLY_UNMATCHED.to_owned(),
                names => format!("stored {between} are, for example: {}", names.join(", ")),
            });
        }
        Some(_) | None => {}
    }
    parts.join("; ")
}

/// What can be asked for: an app called like `Total` cannot.
fn names(seen: &[SeenApp]) -> Vec<&str> {
    seen.iter().map(|app| app.app_service.as_str()).filter(|name| !["", TOTAL].contains(name)).collect()
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
    use crate::query::{Scope, TimeRange, filter};

    const RANGE: TimeRange = TimeRange { from: 1000, until: 2000 };

    fn request(asked: &str, tag_filter: &str) -> Request {
        Request {
            subject: Subject::parse("app_service", asked).unwrap(),
            range: RANGE,
            event: "on-cpu",
            language: "eBPF",
            filter: filter::parse(tag_filter).unwrap(),
            max_kernel_frames: None,
        }
    }

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
        let request = request(asked, tag_filter);
        let of = |keep: &dyn Fn(&SeenApp) -> bool| Some(seen.iter().filter(|s| keep(s)).cloned().collect());
        let seen = Seen {
            asked: of(&|app| app.app_service == asked),
            in_range: of(&|app| app.rows_in_range > 0),
            ever: of(&|_| true),
        };
        check_seen(&request, &seen, expected);
    }

    fn check_seen(request: &Request, seen: &Seen, expected: &str) {
        let text = reason(request, &Sources::raw(Scope::All, RANGE), seen);
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
    fn a_reader_of_some_is_told_where_nothing_is() {
        let namespaces =
            Scope::Namespaces { cluster: "c".into(), namespaces: ["a".to_owned()].into(), left_out: false };
        let seen = |ever| Seen { asked: Some(Vec::new()), in_range: Some(Vec::new()), ever };
        let check = |scope: &Scope, ever, expected: &str| {
            let sources = Sources::raw(scope.clone(), RANGE);
            let text = reason(&request("redis", ""), &sources, &seen(ever));
            assert_eq!(text.split([':', ';']).next(), Some(expected));
        };
        let of_namespaces = " of the namespaces that you may see";
        check(&namespaces, Some(Vec::new()), &format!("nothing is stored{of_namespaces}"));
        check(&namespaces, None, &format!("no app_service \"redis\" is stored{of_namespaces}"));
        check(&Scope::Cluster("c".into()), None, "no app_service \"redis\" is stored of this cluster");
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
    fn what_arrives_meanwhile_is_not_put_on_a_filter_that_was_not_given() {
        check(
            "redis-server",
            "",
            "redis-server 2",
            "app_service \"redis-server\" has samples in the range, which arrived just now: ask again",
        );
        check("Total", "", "sh 2", "there are samples in the range, which arrived just now: ask again");
    }

    #[test]
    fn what_was_too_much_to_look_through_is_left_open() {
        let nothing = Seen::default();
        check_seen(
            &request("redis-server", ""),
            &nothing,
            "app_service \"redis-server\" has no samples in the range; \
             whether it has others was too much to look through",
        );
        check_seen(
            &request("redis-server", "pod = 'x'"),
            &nothing,
            "app_service \"redis-server\" has no samples in the range that the filter matches; \
             whether it has others was too much to look through",
        );
        check_seen(&request("Total", ""), &nothing, "no samples in the range");
        check_seen(
            &request("Total", "pod = 'x'"),
            &nothing,
            "no samples in the range that the filter matches",
        );
        let asked = Seen { asked: Some(Vec::new()), ..nothing };
        check_seen(&request("redis", ""), &asked, "no app_service \"redis\" is stored");
        let in_range = Seen { in_range: Some(Vec::new()), ..asked };
        let expected = "no app_service \"redis\" is stored; nothing else is stored in the range either";
        check_seen(&request("redis", ""), &in_range, expected);
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
            "- 9, nginx 5, Total 4, sh 1, java 0",
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
    fn a_list_without_apps_says_why() {
        let app = |name: &str| SeenApp {
            app_service: name.to_owned(),
            first_seen: 1500,
            last_seen: 1600,
            rows_in_range: 3,
        };
        let check = |in_range: Vec<SeenApp>, ever: Option<Vec<SeenApp>>, expected: &str| {
            let seen = Seen { asked: None, in_range: Some(in_range), ever };
            let sources = Sources::raw(Scope::All, RANGE);
            assert_eq!(no_apps(&Request::of_everything(RANGE), &sources, &seen), expected);
        };
        let between = "between 1970-01-01 00:16:40 UTC and 1970-01-01 00:33:20 UTC";
        check(vec![app("")], None, "only processes that no policy matches are stored: see them under Total");
        let now = format!("there are samples {between}, which arrived just now: ask again");
        check(vec![app(""), app("sh")], None, &now);
        let latest = format!("no samples {between}; the latest is of 1970-01-01 00:26:40 UTC");
        check(Vec::new(), Some(vec![app("sh")]), &latest);
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, distance) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("flaw", "lawn", 2)] {
            assert_eq!((edit_distance(a, b), edit_distance(b, a)), (distance, distance));
        }
    }
}
