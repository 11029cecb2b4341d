//! CPU time over time: one value for each step of a range.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::QueryError;
use super::grouped::{Grouped, ROLLED_UP, SAMPLES, VALUE};
use super::plan;
use super::quality;
use super::request::{Invalid, Request, Subject, TimeRange};
use super::scope::Scope;
use super::source::{Need, Sources};
use super::statement::{Statement, Value};
use super::store::{Store, sum};

/// Most points of an answer.
pub const MAX_POINTS: u32 = 2000;
/// Most points when no step is asked for.
const USUAL_POINTS: u32 = 300;
/// Steps that are chosen when none is asked for. None is more than three times
/// the one before, so that there are 100 points or more.
const USUAL_STEPS: [u32; 14] =
    [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21_600, 43_200, 86_400];

/// The steps of a range, at multiples of the step: the first may begin before
/// the range does, and the last end after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// From the start of its first window.
    pub range: TimeRange,
    /// Seconds, whole windows.
    pub step: u32,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Unix seconds of its start.
    pub time: u32,
    /// Samples taken.
    pub samples: u64,
    /// Microseconds.
    pub value: i64,
}

/// A point for each step, and what must be known about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// What is answered, which may not be all of the first and of the last step.
    pub range: TimeRange,
    /// In order, without a gap: a step without samples has a point of 0.
    pub points: Vec<Point>,
    /// Sentences; usually none.
    pub notes: Vec<String>,
}

#[derive(Debug, Row, Deserialize)]
struct SlotRow {
    slot: u32,
    samples: u64,
    value: i64,
    rolled_up: i64,
}

impl Steps {
    /// The steps of `range`, of `asked` seconds or as many as make 100 to 300 points.
    ///
    /// # Errors
    /// If the step is not made of whole windows, or makes too many points.
    pub fn new(range: TimeRange, window: u32, asked: Option<i64>) -> Result<Self, Invalid> {
        let window = window.max(1);
        let range = range.aligned(window);
        let seconds = range.until - range.from;
        // The first and the last may be only partly in the range.
        let points = |step: u32| range.until / step - range.from / step + 1;
        let shortest = |most: u32| {
            let steps = (seconds / most + 1).next_multiple_of(window)..;
            let mut steps = steps.step_by(window as usize);
            steps.find(|step| points(*step) <= most).unwrap_or(u32::MAX)
        };
        let step = match asked {
            None => USUAL_STEPS
                .into_iter()
                .find(|step| step % window == 0 && points(*step) <= USUAL_POINTS)
                .unwrap_or_else(|| shortest(USUAL_POINTS)),
            Some(asked) => {
                let whole = |step: &u32| *step > 0 && step.is_multiple_of(window);
                let step = u32::try_from(asked).ok().filter(whole).ok_or_else(|| {
                    let problem = format!("is {asked}: give a multiple of {window}, the seconds of a window");
                    Invalid::new("step", problem)
                })?;
                if points(step) > MAX_POINTS {
                    let enough = shortest(MAX_POINTS);
                    return Err(Invalid::new(
                        "step",
                        format!(
                            "is {step}, which makes {} points of at most {MAX_POINTS}: \
                             give {enough} or more, or a shorter range",
                            points(step)
                        ),
                    ));
                }
                step
            }
        };
        Ok(Self { range, step })
    }

    /// The start of the first step: rollups and other clocks have their hours and days there too.
    fn first(&self) -> u32 {
        self.range.from - self.range.from % self.step
    }

    /// Which steps have time that is not in `answered`, in sentences; usually none.
    fn partly_notes(&self, answered: TimeRange, window: u32) -> Vec<String> {
        let Self { range, step } = *self;
        let partly =
            |which: &str, how: String| format!("the {which} step is only partly in the range: it {how}");
        let (first, end) = (self.first(), u64::from(range.until - range.until % step) + u64::from(step));
        // A window counts whole.
        let answered_end = u64::from(answered.until - answered.until % window) + u64::from(window);
        let before = (first < answered.from).then(|| partly("first", format!("begins at {first}")));
        let after = (answered_end < end).then(|| partly("last", format!("ends before {end}")));
        before.into_iter().chain(after).collect()
    }

    fn points(&self, rows: &[SlotRow]) -> Vec<Point> {
        let Self { range: TimeRange { until, .. }, step } = *self;
        let starts = (self.first()..=until).step_by(step as usize);
        let mut points: Vec<Point> = starts.map(|time| Point { time, samples: 0, value: 0 }).collect();
        for SlotRow { slot, samples, value, rolled_up: _ } in rows {
            if let Some(point) = points.get_mut(*slot as usize) {
                (point.samples, point.value) = (*samples, *value);
            }
        }
        points
    }
}

impl Store {
    /// The CPU time of what is asked for in each step, as far as it is in the scope. The filter and the
    /// subject are `request`'s, the range is that of the steps.
    ///
    /// # Errors
    /// As [`Store::flame`].
    pub async fn timeline(
        &self,
        scope: &Scope,
        request: &Request,
        steps: Steps,
    ) -> Result<Timeline, QueryError> {
        let need = Need { step: Some(steps.step), ..Need::of(request) };
        let (sources, mut notes) = self.sources(scope, request.range, need).await?;
        let statement = statement(request, &sources, steps);
        let (rows, lost): (Vec<SlotRow>, _) =
            tokio::try_join!(self.rows(&statement), self.lost(request, &sources))?;
        if rows.is_empty() {
            notes = vec![self.reason(request, &sources, &lost).await?];
        } else {
            if sources.coarser_than(steps.step) {
                let note = "of a part of that time only rollups are stored: a value stands at the start of its minute or hour";
                notes.push(note.to_owned());
            }
            let [rolled_up, value] =
                [sum(rows.iter().map(|row| row.rolled_up)), sum(rows.iter().map(|row| row.value))];
            notes.extend(quality::notes_of_rows(rolled_up, value, &lost));
        }
        let range = sources.range();
        notes.extend(steps.partly_notes(range, self.window_seconds().max(1)));
        Ok(Timeline { range, points: steps.points(&rows), notes })
    }
}

pub(super) fn statement(request: &Request, sources: &Sources, steps: Steps) -> Statement {
    let (first, step) = (steps.first(), steps.step);
    let app_service = match &request.subject {
        Subject::Total => None,
        Subject::App(app) => Some(app.as_str()),
    };
    let slot = "toUInt32(intDiv(greatest(toUnixTimestamp(time), toUInt32(?)) - ?, ?))";
    let grouped = Grouped {
        keys: &[(slot, "slot")],
        key_values: &[first, first, step].map(|number| Value::Int(i64::from(number))),
        parts: &[SAMPLES, VALUE, ROLLED_UP],
        tail: "",
    };
    grouped.from(sources, |branch| plan::condition(request, branch, app_service))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::query::filter;
    use insta::assert_snapshot;

    /// Range, window and step in; `first time, step, points` or the refusal out.
    fn check(from: u32, until: u32, window: u32, asked: Option<i64>, expected: &str) {
        let text = match Steps::new(TimeRange { from, until }, window, asked) {
            Ok(steps) => {
                let points = steps.points(&[]);
                format!("{} {} {}", points[0].time, steps.step, points.len())
            }
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(text, expected, "{from}..{until} by {asked:?}");
    }

    #[test]
    fn a_step_is_chosen_for_100_to_300_points() {
        check(1005, 1904, 10, None, "1000 10 91");
        check(0, 3599, 10, None, "0 20 180");
        check(0, 86_399, 10, None, "0 300 288");
        check(0, 30 * 86_400 - 1, 10, None, "0 21600 120");
        check(0, 90 * 86_400 - 1, 10, None, "0 43200 180");
        check(0, 4_294_967_295, 10, None, "0 14316560 300");
        check(0, 3599, 7, None, "0 14 258");
        check(0, 3599, 30, None, "0 30 120");
        check(10, 6009, 10, None, "0 30 201");
        check(10, 6009, 20, None, "0 60 101");
        check(50, 50, 10, None, "50 10 1");
        for seconds in (3000..40 * 86_400).step_by(997) {
            for from in [0, 10, 86_390] {
                let steps = Steps::new(TimeRange { from, until: from + seconds }, 10, None).unwrap();
                let points = steps.points(&[]).len();
                assert!((100..=300).contains(&points), "{seconds} s from {from}: {points}");
            }
        }
    }

    #[test]
    fn an_asked_step_is_of_whole_windows_and_bounded() {
        check(1005, 1064, 10, Some(30), "990 30 3");
        for asked in [0, -10, 15, i64::MAX] {
            let expected = format!("step is {asked}: give a multiple of 10, the seconds of a window");
            check(0, 99, 10, Some(asked), &expected);
        }
        check(0, 19_999, 10, Some(10), "0 10 2000");
        check(
            0,
            20_000,
            10,
            Some(10),
            "step is 10, which makes 2001 points of at most 2000: give 20 or more, or a shorter range",
        );
        // As long as 2000 steps, which are 2001 if they do not begin with the range.
        check(20, 40_019, 10, Some(20), "20 20 2000");
        check(
            10,
            40_009,
            10,
            Some(20),
            "step is 20, which makes 2001 points of at most 2000: give 30 or more, or a shorter range",
        );
        check(
            29_990,
            89_980,
            10,
            Some(10),
            "step is 10, which makes 6000 points of at most 2000: give 40 or more, or a shorter range",
        );
    }

    #[test]
    fn a_step_without_samples_is_a_point_of_zero() {
        let steps = Steps { range: TimeRange { from: 100, until: 129 }, step: 10 };
        let rows = [
            SlotRow { slot: 2, samples: 3, value: 30, rolled_up: 0 },
            SlotRow { slot: 0, samples: 1, value: 10, rolled_up: 0 },
        ];
        let points: Vec<_> = steps.points(&rows).iter().map(|p| (p.time, p.samples, p.value)).collect();
        assert_eq!(points, [(100, 1, 10), (110, 0, 0), (120, 3, 30)]);
    }

    #[test]
    fn rows_are_aggregated_by_step() {
        let range = TimeRange { from: 100, until: 200 };
        let request = Request {
            subject: Subject::App("it's".into()),
            range,
            event: "on-cpu",
            language: "eBPF",
            filter: filter::parse("cpu = 1").unwrap(),
            max_kernel_frames: None,
        };
        let sources = Sources::raw(Scope::All, range);
        let statement = statement(&request, &sources, Steps { range, step: 20 });
        assert_snapshot!(format!("{}\n{:?}", statement.sql(), statement.values()), @r#"
        SELECT toUInt32(intDiv(greatest(toUnixTimestamp(time), toUInt32(?)) - ?, ?)) AS slot, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `cpu` = ?
        GROUP BY slot
        [Int(100), Int(100), Int(20), Text("it's"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Int(1)]
        "#);
    }
}
