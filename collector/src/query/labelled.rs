//! Samples with their labels: what a tree merges and pprof keeps apart.

use clickhouse::Row;
use hearth_profile::stack::StackId;
use hearth_profile::write::pprof::{About, Pprof};
use serde::Deserialize;

use super::QueryError;
use super::build::{self, AppRow, Stacks};
use super::grouped::{Grouped, PERIOD, ROLLED_UP, SAMPLES, VALUE};
use super::plan;
use super::quality::{Incomplete, Quality};
use super::request::{Request, Subject};
use super::scope::Scope;
use super::source::{Need, Sources};
use super::statement::Statement;
use super::store::{Store, off_runtime};

/// A row of [`statement`].
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
struct LabelledRow {
    #[serde(rename = "stack")]
    stack_id: [u8; 16],
    process_name: String,
    thread_name: String,
    main_thread: u8,
    process_id: u32,
    pod_ns: String,
    pod: String,
    pod_node: String,
    container: String,
    end: i8,
    period: i64,
    samples: u64,
    value: i64,
    rolled_up: i64,
}

/// What a question for labelled samples found.
#[derive(Debug)]
pub enum Labelled {
    /// A pprof file, and how far it can be trusted.
    Pprof(Vec<u8>, Quality),
    /// Nothing, and why.
    Empty(String),
}

impl Store {
    /// The samples in the scope that are asked for as a pprof file, or the reason why there are none.
    ///
    /// # Errors
    /// As [`Store::flame`].
    pub async fn pprof(&self, scope: &Scope, request: &Request) -> Result<Labelled, QueryError> {
        let (sources, mut notes) = self.sources(scope, request.range, Need::of(request)).await?;
        let (found, lost) = tokio::try_join!(self.labelled(request, &sources), self.lost(request, &sources))?;
        let Some((rows, stacks)) = found else {
            return Ok(Labelled::Empty(self.reason(request, &sources, &lost).await?));
        };
        let (subject, window, range) = (request.subject.clone(), self.window_seconds(), sources.range());
        let write = move || {
            let quality = Quality { lost, ..quality(&subject, &rows, &stacks) };
            notes.extend(quality.notes());
            let seconds = (range.until - range.from).saturating_add(1).max(window);
            let about = About { subject: subject.name(), from: range.from, seconds, notes: &notes };
            Labelled::Pprof(pprof(&about, &subject, &rows, &stacks), quality)
        };
        Ok(off_runtime(write).await)
    }

    /// The rows, if there are any, and their stacks.
    async fn labelled(
        &self,
        request: &Request,
        sources: &Sources,
    ) -> Result<Option<(Vec<LabelledRow>, Stacks)>, QueryError> {
        let rows: Vec<LabelledRow> = self.rows(&statement(request, sources)).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        // Stacks are stored before the rows that name them: asked in this order, none is missing.
        let stacks = match &request.subject {
            Subject::App(app) => self.stacks(&plan::stacks(request, sources, app)).await?,
            Subject::Total => Stacks::default(),
        };
        Ok(Some((rows, stacks)))
    }
}

/// Value by stack and everything that is a label. `Total` has no stacks.
pub(super) fn statement(request: &Request, sources: &Sources) -> Statement {
    let (stack_id, app_service) = match &request.subject {
        Subject::Total => ("toFixedString('', 16)", None),
        Subject::App(app) => ("stack_id", Some(app.as_str())),
    };
    let labels = [
        "process_name",
        "thread_name",
        "main_thread",
        "process_id",
        "pod_ns",
        "pod",
        "pod_node",
        "container",
    ];
    let mut keys = vec![(stack_id, "stack"), ("toInt8(stack_end)", "end"), PERIOD];
    keys.extend(labels.map(|label| (label, label)));
    let grouped = Grouped { keys: &keys, key_values: &[], parts: &[SAMPLES, VALUE, ROLLED_UP], tail: "" };
    grouped.from(sources, |branch| plan::condition(request, branch, app_service))
}

fn pprof(about: &About<'_>, subject: &Subject, rows: &[LabelledRow], stacks: &Stacks) -> Vec<u8> {
    let mut pprof = Pprof::new(about);
    for row in rows {
        // Rollups have none.
        let process_id = if row.process_id == 0 { String::new() } else { row.process_id.to_string() };
        let labels = [
            ("thread", row.thread_name.as_str()),
            ("pid", process_id.as_str()),
            ("pod", row.pod.as_str()),
            ("namespace", row.pod_ns.as_str()),
            ("node", row.pod_node.as_str()),
            ("container", row.container.as_str()),
        ];
        let samples = i64::try_from(row.samples).unwrap_or(i64::MAX);
        match subject {
            Subject::Total => {
                let thread = (row.main_thread == 0).then(|| build::shown_thread(&row.thread_name));
                let frames = std::iter::once(build::shown_process(&row.process_name)).chain(thread);
                pprof.add(frames, &labels, samples, row.value);
            }
            // A thread is a label here, and a frame only where no other would show its time.
            Subject::App(_) if row.stack_id == StackId::NONE.to_bytes() => {
                pprof.add([build::shown_thread(&row.thread_name)], &labels, samples, row.value);
            }
            Subject::App(_) => {
                let frames = stacks.shown_frames(row.stack_id, row.process_id, None);
                pprof.add(frames, &labels, samples, row.value);
            }
        }
    }
    pprof.finish()
}

fn quality(subject: &Subject, rows: &[LabelledRow], stacks: &Stacks) -> Quality {
    let rows: Vec<AppRow> = rows
        .iter()
        .map(|row| AppRow {
            stack_id: row.stack_id,
            thread_name: String::new(),
            end: row.end,
            period: row.period,
            first_process: row.process_id,
            last_process: row.process_id,
            samples: row.samples,
            value: row.value,
            rolled_up: row.rolled_up,
        })
        .collect();
    match subject {
        Subject::App(_) => Quality::of_app(&rows, stacks),
        // No stacks are asked for: none is incomplete.
        Subject::Total => Quality { incomplete: Incomplete::default(), ..Quality::of_app(&rows, stacks) },
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::query::{TimeRange, filter};
    use insta::assert_snapshot;

    fn sql(subject: &str) -> String {
        let range = TimeRange { from: 100, until: 200 };
        let request = Request {
            subject: Subject::parse("app_service", subject).unwrap(),
            range,
            event: "on-cpu",
            language: "eBPF",
            filter: filter::parse("pod_ns = 'a'").unwrap(),
            max_kernel_frames: None,
        };
        let statement = statement(&request, &Sources::raw(Scope::All, range));
        assert_eq!(statement.sql().matches('?').count(), statement.values().len());
        statement.sql().to_owned()
    }

    #[test]
    fn an_app_is_aggregated_by_stack_and_labels_and_total_by_labels() {
        assert_snapshot!(sql("it's"), @r"
        SELECT stack_id AS stack, toInt8(stack_end) AS end, toInt64(intDivOrZero(profile_value, sample_count)) AS period, process_name, thread_name, main_thread, process_id, pod_ns, pod, pod_node, container, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_ns` = ?
        GROUP BY stack, end, period, process_name, thread_name, main_thread, process_id, pod_ns, pod, pod_node, container
        ");
        assert!(sql("Total").starts_with("SELECT toFixedString('', 16) AS stack, toInt8(stack_end) AS end"));
        assert!(!sql("Total").contains("app_service"));
    }
}
