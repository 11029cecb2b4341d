//! How far an answer can be trusted: what it rests on, which parts of it are
//! less than they should be, and what is not in it at all.

use std::collections::{BTreeMap, HashSet};

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::build::{AppRow, NO_STACK, Stacks, TotalRow, percent};
use super::source::rolled_up_note;

/// What must be known of an answer besides its tree. Parts of the value are
/// microseconds, so each divided by [`Quality::value`] is a share; parts may
/// overlap. `Total` shows no stacks: nothing of it is incomplete or unresolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Quality {
    /// Microseconds of the answer: the root's total.
    pub value: i64,
    /// Samples that the answer is made of.
    pub samples: u64,
    /// Microseconds in stacks that do not reach their root, by how they end.
    pub incomplete: Incomplete,
    /// Microseconds in stacks with at least one frame that has an address and no
    /// name ([`hearth_profile::frame::is_unresolved`]), as stored: whether or not
    /// `max_kernel_stack_depth` cuts that frame.
    pub unresolved: i64,
    /// Microseconds in stacks whose frames are not stored (any more).
    pub missing_stacks: i64,
    /// Microseconds sampled at a lower rate than the highest of the answer.
    pub thinned: i64,
    /// Microseconds from rollups.
    pub rolled_up: i64,
    /// Samples that the agents of the answer's nodes lost in its range, by
    /// reason. Whose they were is not known: of this app, or of any other
    /// process of those nodes.
    pub lost: BTreeMap<String, u64>,
}

/// Microseconds by the end of the stack, under the names that the column
/// `stack_end` has for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Incomplete {
    /// Deeper than what is walked.
    pub truncated: i64,
    /// Cut at code without unwind information.
    pub no_unwind_info: i64,
    /// Cut at code made at run time.
    pub jit: i64,
    /// The whole stack is lost.
    pub lost: i64,
    /// No stack was taken.
    pub counted: i64,
}

/// A row of [`super::plan::losses`].
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct LossRow {
    /// With `pod_node`: whose agent it was.
    pub pod_cluster: String,
    /// See there.
    pub pod_node: String,
    /// As stored.
    pub reason: String,
    /// Samples.
    pub lost: u64,
}

/// A row of [`super::plan::nodes`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Row, Deserialize)]
pub struct NodeRow {
    /// As in [`LossRow`].
    pub pod_cluster: String,
    /// As in [`LossRow`].
    pub pod_node: String,
}

impl Quality {
    /// That of [`super::build::app_tree`], without what was lost.
    pub fn of_app(rows: &[AppRow], stacks: &Stacks) -> Self {
        let mut quality =
            Self::of(rows.iter().map(|row| (row.period, row.samples, row.value, row.rolled_up)));
        for AppRow { stack_id, end, value, .. } in rows {
            quality.incomplete.add(*end, *value);
            if stacks.has_unresolved(stack_id) {
                add(&mut quality.unresolved, *value);
            }
            if *stack_id != NO_STACK && !stacks.contains(stack_id) {
                add(&mut quality.missing_stacks, *value);
            }
        }
        quality
    }

    /// That of [`super::build::total_tree`], without what was lost.
    pub fn of_total(rows: &[TotalRow]) -> Self {
        Self::of(rows.iter().map(|row| (row.period, row.samples, row.value, row.rolled_up)))
    }

    /// Rows as (microseconds of a sample or 0, samples, microseconds, those of them from rollups).
    fn of(rows: impl Iterator<Item = (i64, u64, i64, i64)> + Clone) -> Self {
        let shortest = rows.clone().map(|(period, ..)| period).filter(|&period| period > 0).min();
        let mut quality = Self::default();
        for (period, samples, value, rolled_up) in rows {
            quality.samples = quality.samples.saturating_add(samples);
            add(&mut quality.value, value);
            add(&mut quality.rolled_up, rolled_up);
            if shortest.is_some_and(|shortest| period > shortest) {
                add(&mut quality.thinned, value);
            }
        }
        quality
    }

    /// What is not as it should be, in sentences; none if all is. Unresolved
    /// frames are not said: they stand in the tree for everybody to see.
    pub fn notes(&self) -> Vec<String> {
        let Self { value, samples: _, incomplete, unresolved: _, missing_stacks, thinned, rolled_up, lost } =
            self;
        let share = |part: i64| percent(part, *value);
        let mut notes = Vec::new();
        let ends = incomplete.ends();
        let all = ends.iter().fold(0_i64, |sum, (part, _)| sum.saturating_add(*part));
        if all != 0 {
            let parts = ends.iter().filter(|(part, _)| *part != 0);
            let parts: Vec<String> = parts.map(|(part, what)| format!("{} {what}", share(*part))).collect();
            notes.push(format!("{} of the time is in incomplete stacks ({})", share(all), parts.join(", ")));
        }
        if *missing_stacks != 0 {
            let share = share(*missing_stacks);
            notes.push(format!("{share} of the time is in stacks whose frames are not stored"));
        }
        if *thinned != 0 {
            notes.push(format!("{} of the time was sampled at a lower rate than the rest", share(*thinned)));
        }
        notes.extend(notes_of_rows(*rolled_up, *value, lost));
        notes
    }
}

impl Incomplete {
    /// `end` is the column's number; of an end that this version does not know
    /// it is not known that it is complete either.
    fn add(&mut self, end: i8, value: i64) {
        let part = match end {
            0 => return,
            1 => &mut self.truncated,
            2 => &mut self.no_unwind_info,
            3 => &mut self.jit,
            5 => &mut self.counted,
            _ => &mut self.lost,
        };
        add(part, value);
    }

    fn ends(&self) -> [(i64, &'static str); 5] {
        let Self { truncated, no_unwind_info, jit, lost, counted } = *self;
        [
            (truncated, "deeper than what is walked"),
            (no_unwind_info, "cut at code without unwind information"),
            (jit, "cut at code made at run time"),
            (lost, "lost altogether"),
            (counted, "not taken"),
        ]
    }
}

/// What was lost by reason, on these nodes; on all if none are given.
pub fn lost(rows: Vec<LossRow>, nodes: Vec<NodeRow>) -> BTreeMap<String, u64> {
    let nodes: HashSet<NodeRow> = nodes.into_iter().collect();
    let mut lost = BTreeMap::new();
    for LossRow { pod_cluster, pod_node, reason, lost: samples } in rows {
        let node = NodeRow { pod_cluster, pod_node };
        if samples != 0 && (nodes.is_empty() || nodes.contains(&node)) {
            let sum: &mut u64 = lost.entry(reason).or_default();
            *sum = sum.saturating_add(samples);
        }
    }
    lost
}

/// What every answer from rows must say, whatever is made of them: how much of
/// its `value` is from rollups, and what was lost.
pub fn notes_of_rows(rolled_up: i64, value: i64, lost: &BTreeMap<String, u64>) -> Vec<String> {
    rolled_up_note(rolled_up, value).into_iter().chain(lost_note(lost)).collect()
}

/// The sentence on what was lost; none if nothing was.
pub fn lost_note(lost: &BTreeMap<String, u64>) -> Option<String> {
    if lost.is_empty() {
        return None;
    }
    let all = lost.values().fold(0_u64, |sum, samples| sum.saturating_add(*samples));
    let parts: Vec<String> = lost.iter().map(|(reason, samples)| format!("{reason} {samples}")).collect();
    let samples = if all == 1 { "sample" } else { "samples" };
    let parts = parts.join(", ");
    Some(format!(
        "the agents of these nodes lost {all} {samples} in that time, of whatever process ({parts})"
    ))
}

fn add(sum: &mut i64, part: i64) {
    *sum = sum.saturating_add(part);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::query::build::app_tree;
    use crate::query::build::tests::{rows, stacks};
    use proptest::prelude::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(Quality::of_app(&rows(text), &stacks()).notes(), expected);
    }

    #[test]
    fn incomplete_stacks_are_said() {
        check("1 a 0 7 3", &[]);
        check(
            "1 a 0 7 90\n1 a 1 7 4\n1 a 4 7 6",
            &[
                "10.0 % of the time is in incomplete stacks (4.0 % deeper than what is walked, 6.0 % lost altogether)",
            ],
        );
        check(
            "1 a 0 7 99999\n1 a 2 7 1",
            &["less than 0.1 % of the time is in incomplete stacks \
               (less than 0.1 % cut at code without unwind information)"],
        );
        check("99 a 0 7 3", &["100.0 % of the time is in stacks whose frames are not stored"]);
    }

    #[test]
    fn every_part_is_counted_apart() {
        let quality = Quality::of_app(
            &rows(
                "1 a 0 7 1\n1 a 1 7 2\n1 a 2 7 4\n1 a 3 7 8\n1 a 4 7 16\n0 a 5 7 32\n3 a 0 7 64\n99 a 0 7 128\n1 a 6 7 256",
            ),
            &stacks(),
        );
        let incomplete = Incomplete { truncated: 2, no_unwind_info: 4, jit: 8, lost: 16 + 256, counted: 32 };
        let expected = Quality {
            value: 511,
            samples: 511,
            incomplete,
            unresolved: 64,
            missing_stacks: 128,
            ..Quality::default()
        };
        assert_eq!(quality, expected);
    }

    #[test]
    fn parts_have_the_names_of_the_column() {
        let quality = Quality { lost: BTreeMap::from([("ring-full".into(), 9)]), ..Quality::default() };
        assert_eq!(
            serde_json::to_string(&quality).unwrap(),
            r#"{"value":0,"samples":0,"incomplete":{"truncated":0,"no-unwind-info":0,"jit":0,"lost":0,"counted":0},"unresolved":0,"missing_stacks":0,"thinned":0,"rolled_up":0,"lost":{"ring-full":9}}"#
        );
    }

    #[test]
    fn what_is_rolled_up_is_summed() {
        let mut rows = rows("1 a 0 7 3\n1 b 0 7 1");
        rows[0].rolled_up = 3;
        let quality = Quality::of_app(&rows, &stacks());
        assert_eq!(quality.rolled_up, 3);
        let note = "75.0 % of the time is from rollups, by minute or hour and without process ids";
        assert_eq!(quality.notes(), [note]);
    }

    #[test]
    fn the_highest_rate_is_not_thinned() {
        let row = |period, value| TotalRow {
            process_name: "p".into(),
            thread_name: "t".into(),
            main_thread: 1,
            period,
            samples: 1,
            value,
            rolled_up: 0,
        };
        let thinned = |rows: &[TotalRow]| Quality::of_total(rows).thinned;
        assert_eq!(thinned(&[row(10_101, 10_101), row(10_101, 20_202)]), 0);
        assert_eq!(thinned(&[row(10_101, 10_101), row(1003, 1003), row(52_631, 52_631)]), 62_732);
        // A row without samples has no rate.
        assert_eq!(thinned(&[row(0, 5), row(10_101, 10_101)]), 0);
        assert_eq!(
            Quality::of_total(&[row(1003, 25), row(10_101, 75)]).notes(),
            ["75.0 % of the time was sampled at a lower rate than the rest"]
        );
    }

    proptest! {
        #[test]
        fn no_part_is_more_than_the_whole(
            rows in prop::collection::vec((0_u128..7, 0_i8..7, 0_i64..4, 0_i64..1000), 0..40)
        ) {
            let rows: Vec<AppRow> = rows
                .iter()
                .map(|&(id, end, period, samples)| AppRow {
                    stack_id: id.to_be_bytes(),
                    thread_name: "t".into(),
                    end,
                    // What has no samples has none.
                    period: if samples == 0 { 0 } else { period },
                    first_process: 1,
                    last_process: 1,
                    samples: samples.unsigned_abs(),
                    value: samples * period,
                    rolled_up: 0,
                })
                .collect();
            let quality = Quality::of_app(&rows, &stacks());
            let tree = app_tree("app", &rows, &stacks(), None);
            prop_assert_eq!(quality.value, tree.root().total);
            let Quality { value, incomplete, unresolved, missing_stacks, thinned, .. } = quality;
            let ends: i64 = incomplete.ends().iter().map(|(part, _)| part).sum();
            // Something has the highest rate, if anything was sampled.
            prop_assert!(thinned < value.max(1));
            for part in [ends, unresolved, missing_stacks] {
                prop_assert!((0..=value).contains(&part));
            }
        }
    }

    #[test]
    fn losses_are_summed_over_the_nodes_of_the_answer() {
        let row = |node: &str, reason: &str, lost| LossRow {
            pod_cluster: "c".into(),
            pod_node: node.into(),
            reason: reason.into(),
            lost,
        };
        let node = |node: &str| NodeRow { pod_cluster: "c".into(), pod_node: node.into() };
        let rows = vec![
            row("a", "ring-full", 1),
            row("b", "ring-full", 2),
            row("c", "too-old", 4),
            row("a", "x", 0),
        ];
        let text = |nodes: Vec<NodeRow>| lost_note(&lost(rows.clone(), nodes)).unwrap_or_default();
        assert_eq!(
            text(Vec::new()),
            "the agents of these nodes lost 7 samples in that time, of whatever process (ring-full 3, too-old 4)"
        );
        assert_eq!(
            text(vec![node("a")]),
            "the agents of these nodes lost 1 sample in that time, of whatever process (ring-full 1)"
        );
        assert_eq!(text(vec![node("d")]), "");
        let elsewhere = NodeRow { pod_cluster: "other".into(), ..node("a") };
        assert_eq!(text(vec![elsewhere]), "");
    }
}
