//! From which tables a range is answered: raw rows, or rollups where they say the same.
//!
//! Each hour of a long range comes from one of them: whole hours from the coarsest
//! rollup that holds all that was ever stored of them, the rest from raw rows. Where
//! these are gone, an end of the range inside an hour is widened to the minute or the
//! hour that rollups know.

use std::collections::BTreeSet;

use super::build::percent;
use super::filter::{Expr, Tag};
use super::request::{Request, TimeRange};
use super::scope::Scope;
use super::statement::table::{Branch, HOURS, MINUTES, RAW, Table};
use super::time::utc;
use crate::rollup::Coverage;
use crate::rollup::coverage::{DAY, HOUR, hours_of};

/// A range up to so many seconds is answered from raw rows while there are any.
const SHORT: u32 = 6 * HOUR;
/// Raw rows are kept for no less.
const LEAST_RETENTION: u32 = 3 * HOUR;

/// The columns of tags that rollups keep; every other one is known of raw rows alone.
const KEPT: &[&str] = &[
    "app_service",
    "process_name",
    "thread_name",
    "main_thread",
    "profile_value_unit",
    "profile_event_type",
    "profile_language_type",
    "pod_cluster",
    "pod_ns",
    "pod_node",
    "pod_group",
    "pod_group_type",
    "container",
    "stack_id",
    "stack_end",
];

/// What a question needs of the rows that answer it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Need {
    /// A tag that only raw rows have.
    pub raw_tag: Option<&'static str>,
    /// Seconds between the times that must be told apart; none if time does not matter.
    pub step: Option<u32>,
}

/// The disjoint parts of a range, by the table that answers them, and who may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    scope: Scope,
    /// What was to be answered, and what is: widened where it had to be.
    wanted: TimeRange,
    range: TimeRange,
    raw: Vec<TimeRange>,
    minutes: Vec<TimeRange>,
    hours: Vec<TimeRange>,
    /// From the first to the last hour that no table can answer.
    missing: Option<TimeRange>,
    /// The tag of the filter that rollups lack.
    lacking: Option<&'static str>,
}

impl Tag {
    /// Whether rollups keep it.
    pub fn in_rollups(&self) -> bool {
        KEPT.contains(&self.column)
    }
}

/// Whether it matters what there is: for a long range, or an old one.
pub fn wants_rollups(range: TimeRange, now: u32) -> bool {
    is_long(range) || range.from < now.saturating_sub(LEAST_RETENTION)
}

fn is_long(range: TimeRange) -> bool {
    range.until - range.from >= SHORT
}

impl Need {
    /// What the filter needs.
    pub fn of(request: &Request) -> Self {
        Self { raw_tag: request.filter.as_ref().and_then(first_raw_tag), step: None }
    }

    /// Also that tag.
    pub fn and_tag(self, tag: &Tag) -> Self {
        Self { raw_tag: self.raw_tag.or((!tag.in_rollups()).then_some(tag.name)), ..self }
    }

    /// Whether rows whose times are multiples of `seconds` will do.
    fn allows(self, seconds: u32) -> bool {
        self.step.is_none_or(|step| step.is_multiple_of(seconds))
    }
}

impl Sources {
    /// Raw rows alone.
    pub fn raw(scope: Scope, range: TimeRange) -> Self {
        Self {
            scope,
            wanted: range,
            range,
            raw: vec![range],
            minutes: Vec::new(),
            hours: Vec::new(),
            missing: None,
            lacking: None,
        }
    }

    /// By what there is; `seen` are the hours outside of which the scope has nothing. Of these nothing may be known:
    /// raw rows are asked, whatever is stored of others.
    pub fn choose(scope: Scope, range: TimeRange, seen: TimeRange, need: Need, coverage: &Coverage) -> Self {
        let choice = Choice { coverage, long: is_long(range), need };
        let mut sources = Self { raw: Vec::new(), lacking: need.raw_tag, ..Self::raw(scope, range) };
        // Where rollups have nothing, raw rows may have come since.
        let mut unanswered = Some(range.from);
        let seen = seen.aligned(HOUR);
        let hours = hours_with_rollups(range, coverage);
        for hour in hours.into_iter().filter(|hour| (seen.from..=seen.until).contains(hour)) {
            let of_hour = TimeRange { from: hour, until: hour.saturating_add(HOUR - 1) };
            let part =
                TimeRange { from: of_hour.from.max(range.from), until: of_hour.until.min(range.until) };
            let (answered, to) = match choice.of(hour, part == of_hour) {
                Source::Raw => continue,
                Source::RawInPart => {
                    sources.miss(of_hour);
                    continue;
                }
                Source::Minutes => (widened(part, 60), &mut sources.minutes),
                Source::Hours => (of_hour, &mut sources.hours),
            };
            push(to, answered);
            sources.range.from = sources.range.from.min(answered.from);
            sources.range.until = sources.range.until.max(answered.until);
            if let Some(from) = unanswered.filter(|from| *from < part.from) {
                push(&mut sources.raw, TimeRange { from, until: part.from - 1 });
            }
            unanswered = part.until.checked_add(1);
        }
        if let Some(from) = unanswered.filter(|from| *from <= range.until) {
            push(&mut sources.raw, TimeRange { from, until: range.until });
        }
        sources
    }

    fn miss(&mut self, hour: TimeRange) {
        let first = self.missing.map_or(hour.from, |missing| missing.from);
        self.missing = Some(TimeRange { from: first, until: hour.until });
    }

    /// Who may be told.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The range that is answered.
    pub fn range(&self) -> TimeRange {
        self.range
    }

    /// The tables to ask, one or more.
    pub(super) fn branches(&self) -> Vec<Branch<'_>> {
        let (days, hours) = split_days(&self.hours);
        let branches = [(HOURS, days, true), (HOURS, hours, false)].into_iter().chain([
            (MINUTES, self.minutes.clone(), false),
            // Where nothing is to be asked, raw rows have nothing.
            (RAW, self.raw.clone(), false),
        ]);
        branches
            .filter(|(_, ranges, _)| !ranges.is_empty())
            .map(|(table, ranges, by_day)| Branch { scope: &self.scope, table, ranges, by_day })
            .collect()
    }

    /// All tables, each with the times that are asked of it, which may be none.
    pub(super) fn tables(&self) -> impl Iterator<Item = Branch<'_>> {
        let tables: [(Table, &[TimeRange]); 3] =
            [(HOURS, &self.hours), (MINUTES, &self.minutes), (RAW, &self.raw)];
        tables.into_iter().map(|(table, ranges)| Branch {
            scope: &self.scope,
            table,
            ranges: ranges.to_vec(),
            by_day: false,
        })
    }

    /// What whoever `asked` must know of it, in sentences.
    pub fn notes(&self, asked: TimeRange, window_seconds: u32) -> Vec<String> {
        let Self { wanted, range, .. } = self;
        let mut notes = Vec::new();
        let mut moved = |end: &str, asked: u32, to: u32, why: &str| {
            notes.push(format!("the {end}, {asked}, was moved to {to} ({}): {why}", utc(to)));
        };
        let rolled_up = "of that time only rollups are stored";
        if range.from != wanted.from {
            moved("start", asked.from, range.from, rolled_up);
        } else if range.from != asked.from {
            let why = format!("samples are stored by windows of {window_seconds} s");
            moved("start", asked.from, range.from, &why);
        }
        if range.until != wanted.until {
            moved("end", asked.until, range.until, rolled_up);
        }
        notes.extend(self.missing_note());
        notes.extend(self.scope().note());
        notes
    }

    /// Whether some of it is told only by longer steps than these.
    pub fn coarser_than(&self, step: u32) -> bool {
        let coarser = |ranges: &[TimeRange], seconds| !ranges.is_empty() && !step.is_multiple_of(seconds);
        coarser(&self.minutes, 60) || coarser(&self.hours, HOUR)
    }

    /// Which hours nothing can answer, and why.
    pub fn missing_note(&self) -> Option<String> {
        let TimeRange { from, until } = self.missing?;
        let why = match self.lacking {
            Some(tag) => {
                format!(
                    "the question is about {tag}, and of that time only rollups are stored, which lack it"
                )
            }
            None => "the rollups of that time are damaged, and the raw rows are gone".to_owned(),
        };
        Some(format!("samples are missing from {} until {}: {why}", utc(from), utc(until)))
    }
}

/// The whole days of ranges, and what is left of them.
fn split_days(ranges: &[TimeRange]) -> (Vec<TimeRange>, Vec<TimeRange>) {
    let (mut days, mut rest) = (Vec::new(), Vec::new());
    for &TimeRange { from, until } in ranges {
        let end = u64::from(until) + 1;
        let [first, last] = [u64::from(from).next_multiple_of(DAY.into()), end - end % u64::from(DAY)];
        if first >= last {
            rest.push(TimeRange { from, until });
            continue;
        }
        let part = |from: u64, end: u64| {
            let seconds = |time| u32::try_from(time).unwrap_or(u32::MAX);
            (from < end).then(|| TimeRange { from: seconds(from), until: seconds(end - 1) })
        };
        days.extend(part(first, last));
        rest.extend(part(from.into(), first));
        rest.extend(part(last, end));
    }
    (days, rest)
}

/// How much of the value is from rollups, in a sentence; none if nothing is.
pub fn rolled_up_note(rolled_up: i64, total: i64) -> Option<String> {
    (rolled_up != 0).then(|| {
        let share = percent(rolled_up, total);
        format!("{share} of the time is from rollups, by minute or hour and without process ids")
    })
}

/// The tag of a filter that makes it a question to raw rows.
fn first_raw_tag(filter: &Expr) -> Option<&'static str> {
    filter.tags().into_iter().find(|tag| !tag.in_rollups()).map(|tag| tag.name)
}

/// From where an hour is answered.
enum Source {
    Raw,
    /// What raw rows are left of an hour of which there were more.
    RawInPart,
    Minutes,
    Hours,
}

struct Choice<'a> {
    coverage: &'a Coverage,
    /// Whether whole hours are from rollups also where raw rows have them.
    long: bool,
    need: Need,
}

impl Choice<'_> {
    /// `whole`: all of the hour was asked for.
    fn of(&self, hour: u32, whole: bool) -> Source {
        let Self { coverage, long, need } = *self;
        let day = hour - hour % DAY;
        let built = coverage.minutes.get(&hour);
        let (rows, built_from) = (coverage.raw_rows(hour), built.map_or(0, |built| built.from));
        let raw_is_whole = rows > 0 && rows >= built_from;
        // Rows that came after the retention of their minutes are not to be expected.
        let minutes_expired = built.is_none()
            && coverage.hours.get(&day).is_some_and(|day_built| day_built.from > coverage.minutes_of(day));
        if need.raw_tag.is_some() {
            let was_more = rows == 0 && (built.is_some() || minutes_expired) || rows < built_from;
            return if was_more { Source::RawInPart } else { Source::Raw };
        }
        let by_hour = coverage.hours_are_current(day);
        let by_minute = coverage.minutes_are_current(hour);
        match (whole, raw_is_whole) {
            (_, true) if !(whole && long && need.allows(60)) => Source::Raw,
            (true, _) if by_hour && need.allows(HOUR) => Source::Hours,
            _ if by_minute => Source::Minutes,
            _ if by_hour && minutes_expired => Source::Hours,
            _ if rows < built_from => Source::RawInPart,
            _ => Source::Raw,
        }
    }
}

/// The hours of a range of which a rollup has something, in order.
fn hours_with_rollups(range: TimeRange, coverage: &Coverage) -> BTreeSet<u32> {
    let (first, last) = (range.from - range.from % HOUR, range.until);
    let minutes = coverage.minutes.range(first..=last).map(|(hour, _)| *hour);
    let days = coverage.hours.range(first - first % DAY..=last);
    let of_days = days.flat_map(|(&day, _)| hours_of(day).step_by(HOUR as usize));
    minutes.chain(of_days.filter(|hour| (first..=last).contains(hour))).collect()
}

fn widened(part: TimeRange, step: u32) -> TimeRange {
    let TimeRange { from, until } = part;
    TimeRange { from: from - from % step, until: (until - until % step).saturating_add(step - 1) }
}

/// Adds a range behind the others, joined with the last if it follows at once.
fn push(ranges: &mut Vec<TimeRange>, next: TimeRange) {
    match ranges.last_mut() {
        Some(last) if last.until.checked_add(1) == Some(next.from) => last.until = next.until,
        _ => ranges.push(next),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;
    use crate::query::filter;
    use crate::rollup::coverage::tests::coverage;
    use insta::assert_snapshot;

    /// Hours since 1970, in which 2.5 is half past two.
    fn seconds(hours: f64) -> u32 {
        (hours * f64::from(HOUR)).round() as u32
    }

    fn range(from: f64, until: f64) -> TimeRange {
        TimeRange { from: seconds(from), until: seconds(until) - 1 }
    }

    pub(in crate::query) fn chosen(tables: &str, tag_filter: &str, asked: &str) -> Sources {
        let (from, until) = asked.split_once("..").unwrap();
        let range = range(from.parse().unwrap(), until.parse().unwrap());
        let filter = filter::parse(tag_filter).unwrap();
        let need = Need { raw_tag: filter.as_ref().and_then(first_raw_tag), step: None };
        Sources::choose(Scope::All, range, range, need, &coverage(tables))
    }

    fn shown(ranges: &[TimeRange]) -> String {
        let hours = |seconds: u32| (f64::from(seconds) / f64::from(HOUR) * 1000.0).round() / 1000.0;
        let ranges: Vec<String> = ranges
            .iter()
            .map(|TimeRange { from, until }| format!("{}..{}", hours(*from), hours(*until + 1)))
            .collect();
        ranges.join(" ")
    }

    /// The end of a range is exclusive here, and shown so.
    fn check(tables: &str, range: &str, expected: &str) {
        let sources = chosen(tables, "", range);
        let Sources { raw, minutes, hours, missing, .. } = &sources;
        let parts = [("raw", raw), ("minutes", minutes), ("hours", hours)];
        let mut text: Vec<String> = parts
            .iter()
            .filter(|(_, ranges)| !ranges.is_empty())
            .map(|(name, ranges)| format!("{name} {}", shown(ranges)))
            .collect();
        text.extend(missing.map(|missing| format!("missing {}", shown(&[missing]))));
        assert_eq!(text.join(", "), expected, "{tables} {range}");
    }

    #[test]
    fn whole_hours_are_from_the_coarsest_that_has_them() {
        let tables = "raw 23=5, raw 24=5, raw 25=5, raw 26=5, min 23=5, min 24=5, min 25=5, hour 0=5";
        check(tables, "0..27", "raw 26..27, minutes 24..26, hours 0..24");
        check(tables, "19.5..26.5", "raw 19.5..20 26..26.5, minutes 24..26, hours 20..24");
        check("raw 1=5", "0..24", "raw 0..24");
        check("", "0..24", "raw 0..24");
    }

    #[test]
    fn a_short_range_is_from_raw_where_raw_is_whole() {
        check("raw 23=5, min 23=5, min 22=5, hour 0=10", "22..24", "raw 23..24, hours 22..23");
        check("raw 23=5, min 23=5, raw 24=3, min 24=4", "23..27", "raw 23..24 25..27, minutes 24..25");
    }

    #[test]
    fn what_is_not_up_to_date_is_from_below() {
        // A late batch, not built yet; and one that the minutes have and the day has not.
        check("raw 1=6, raw 2=5, min 1=5, min 2=5, hour 0=10", "0..24", "raw 0..2 3..24, minutes 2..3");
        check("raw 1=6, raw 2=5, min 1=6, min 2=5, hour 0=10", "0..24", "raw 0..1 3..24, minutes 1..3");
        check("raw 1=6, raw 2=5, min 1=6, min 2=5, hour 0=11", "0..24", "hours 0..24");
        // Two builds at once.
        check("raw 1=6, min 1=6 mixed", "0..24", "raw 0..24");
        check("raw 1=6, min 1=6, hour 0=6 mixed", "0..24", "raw 0..1 2..24, minutes 1..2");
    }

    #[test]
    fn edges_are_from_raw_while_it_is_whole_and_widened_after() {
        check("raw 1=5, min 1=5", "1.5..9", "raw 1.5..9");
        check("raw 1=4, min 1=5", "1.504..9", "raw 2..9, minutes 1.5..2");
        check("min 1=5", "1.504..1.748", "minutes 1.5..1.75");
        check("hour 0=5", "1.5..3.5", "hours 1..4");
        check("min 2=3, hour 0=5", "1.5..2.5", "minutes 2..2.5, hours 1..2");
    }

    #[test]
    fn what_is_damaged_and_cannot_be_built_again_is_missing() {
        check("raw 1=4, min 1=5 mixed", "0..24", "raw 0..24, missing 1..2");
    }

    #[test]
    fn a_filter_on_what_rollups_lack_is_answered_from_raw_and_says_what_is_missing() {
        let tables = "min 1=5, min 30=5, raw 31=4, min 31=5, raw 32=5, min 32=5, raw 33=5, hour 0=5";
        let notes =
            |tag_filter: &str| chosen(tables, tag_filter, "0..48").notes(range(0.0, 48.0), 10).join("; ");
        assert_eq!(
            notes("pod_ns = 'a' AND (NOT pod = 'x' OR cpu = 1)"),
            "samples are missing from 1970-01-01 01:00:00 UTC until 1970-01-02 07:59:59 UTC: \
             the question is about pod, and of that time only rollups are stored, which lack it"
        );
        assert_eq!(notes("pod_ns = 'a'"), "");
        let sources = chosen(tables, "process_id = 7", "0..48");
        assert_eq!((shown(&sources.raw), sources.branches().len()), ("0..48".into(), 1));
        // Where raw has everything, nothing is missing.
        assert_eq!(chosen(tables, "pod = 'x'", "32..48").missing, None);
        // The minutes are gone too.
        let missing = chosen("hour 0=5", "pod = 'x'", "2..5").missing.unwrap();
        assert_eq!(shown(&[missing]), "2..5");
    }

    #[test]
    fn moved_ends_are_said() {
        assert_eq!(
            chosen("min 1=5", "", "1.504..1.748").notes(range(1.504, 1.748), 10),
            [
                "the start, 5414, was moved to 5400 (1970-01-01 01:30:00 UTC): of that time only rollups are stored",
                "the end, 6292, was moved to 6299 (1970-01-01 01:44:59 UTC): of that time only rollups are stored",
            ]
        );
    }

    #[test]
    fn how_much_is_from_rollups_is_said() {
        assert_eq!(rolled_up_note(0, 10), None);
        assert_eq!(
            rolled_up_note(5, 10).unwrap(),
            "50.0 % of the time is from rollups, by minute or hour and without process ids"
        );
    }

    #[test]
    fn long_ranges_and_old_ones_want_rollups() {
        let wants = |from: f64, until: f64| wants_rollups(range(from, until), seconds(80.0));
        assert!(!wants(78.0, 80.0));
        assert!(!wants(77.0, 80.0));
        assert!(wants(76.9, 77.0));
        assert!(wants(77.0, 83.1));
        assert!(wants(77.0, 900.0));
    }

    #[test]
    fn the_widest_range_has_few_parts() {
        let widest = TimeRange { from: 1, until: u32::MAX };
        let Sources { raw, minutes, .. } =
            Sources::choose(Scope::All, widest, widest, Need::default(), &coverage("min 1=5, min 2=5"));
        assert_eq!((raw.len(), minutes.len()), (2, 1));
    }

    #[test]
    fn whole_days_are_told_from_the_hours_around_them() {
        let check = |from: f64, until: f64, expected: &str| {
            let (days, rest) = split_days(&[range(from, until)]);
            assert_eq!(format!("{} | {}", shown(&days), shown(&rest)), expected);
        };
        check(24.0, 48.0, "24..48 | ");
        check(24.0, 96.0, "24..96 | ");
        check(23.0, 97.0, "24..96 | 23..24 96..97");
        check(25.0, 48.0, " | 25..48");
        check(25.0, 49.0, " | 25..49");
        check(24.0, 49.0, "24..48 | 48..49");
    }

    #[test]
    fn each_table_is_a_branch_with_its_times() {
        let sources = chosen(
            "raw 23=5, min 23=5, raw 24=5, min 24=5, raw 25=6, min 25=5, raw 26=5, min 26=5, hour 0=5",
            "",
            "23..30",
        );
        let branches = sources.branches();
        let mut values = Vec::new();
        let shown: Vec<String> = branches
            .iter()
            .map(|branch| format!("{}: {}", branch.name(), branch.time().write(&mut values)))
            .collect();
        assert_snapshot!(format!("{}\n{values:?}", shown.join("\n")), @r"
        profile.in_process_1h: time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')
        profile.in_process_1m: ((time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')) OR (time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')))
        profile.in_process_local: ((time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')) OR (time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')))
        [Int(82800), Int(86399), Int(86400), Int(89999), Int(93600), Int(97199), Int(90000), Int(93599), Int(97200), Int(107999)]
        ");
    }

    #[test]
    fn where_a_reader_has_nothing_it_is_not_told_what_there_is() {
        let (asked, tables) = (range(1.504, 9.0), coverage("min 1=5, min 2=5, min 3=5 mixed, min 5=5"));
        let check = |seen: TimeRange, expected: &str| {
            let Sources { range, raw, minutes, missing, .. } =
                Sources::choose(Scope::All, asked, seen, Need::default(), &tables);
            let missing = if missing.is_some() { ", some missing" } else { "" };
            assert_eq!(
                format!("{}: raw {}, minutes {}{missing}", shown(&[range]), shown(&raw), shown(&minutes)),
                expected
            );
        };
        check(asked, "1.5..9: raw 3..5 6..9, minutes 1.5..3 5..6, some missing");
        check(range(2.2, 2.3), "1.504..9: raw 1.504..2 3..9, minutes 2..3");
        check(range(2.2, 5.1), "1.504..9: raw 1.504..2 3..5 6..9, minutes 2..3 5..6, some missing");
        check(range(7.0, 8.0), "1.504..9: raw 1.504..9, minutes ");
    }
}
