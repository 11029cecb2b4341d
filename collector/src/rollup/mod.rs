//! Builds the rollups: minutes of each closed hour from raw rows, hours of each closed day from its minutes.
//!
//! Look ([`Coverage`]) → what is to be done ([`due`]) → build. There is no list of what
//! was done: each partition says how many raw rows it was built from, counted before
//! they were read, and is built again while there are more. So it does not matter when
//! a builder dies, that a batch comes late, or that another collector builds the same.
//!
//! A partition is filled in a table of its own, made one part, which is renamed as a
//! whole, and swapped in. Where ClickHouse dies between that and dropping what was
//! replaced, rows of two builds are there; that is seen, not read, and built again.

pub mod coverage;
mod due;
mod metrics;

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clickhouse::Client;
use clickhouse::error::Error;
use hearth_kill_points::Point;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use coverage::Coverage;
pub use due::{Job, LEAST_MINUTE, LEAST_RAW, due};
pub use metrics::RollupMetrics;

use self::coverage::{DAY, HOUR, hours_of};
use crate::query::time::utc;
use crate::schema::Retention;

/// What rows of a rollup are told apart by, beside their time and period.
const KEY: &str = "app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, \
                   pod_ns, pod_node, pod_group, pod_group_type, container, process_name, thread_name, \
                   main_thread, stack_id, stack_end";
/// Begins the name of each table that a partition is filled in.
const STAGING: &str = "rollup_staging_";
/// Most bytes of memory that a build may take in ClickHouse; the groups go to disk before.
const MAX_MEMORY: u64 = 1 << 30;
const MEMORY_OF_GROUPS: u64 = 256 << 20;
/// Most seconds of a statement.
const MAX_SECONDS: u64 = 600;
/// Raw rows of one statement, or it could take longer than it may: 100,000 per second suffice.
const ROWS_AT_ONCE: u64 = 50_000_000;
/// What does not come back by then is not coming back.
const PATIENCE: Duration = Duration::from_secs(MAX_SECONDS + 30);
/// An hour that late batches change again and again is built once in so many looks.
const LOOKS_BETWEEN_BUILDS: u32 = 10;
/// Between two log lines about the same failure.
const FAILURE_REPEAT: Duration = Duration::from_secs(60);

/// When is built what.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Between two looks.
    pub check: Duration,
    /// How long an hour has been over when it is closed.
    pub after: Duration,
    /// Since when a table to fill is a dead builder's.
    pub abandoned_after: Duration,
    /// How long the sources stay.
    pub retention: Retention,
}

/// Why something was not built.
#[derive(Debug, thiserror::Error)]
pub enum RollupError {
    /// ClickHouse refused a statement, or cannot be reached.
    #[error("cannot {what}: {source}")]
    Statement {
        /// What the statement is for.
        what: &'static str,
        /// What ClickHouse said.
        source: Error,
    },
    /// Somebody changed what is read while it was read.
    #[error("cannot use what was built: its source changed meanwhile")]
    Changed,
    /// It would not be swapped at once.
    #[error("cannot use what was built: it is in {0} parts, not in one")]
    Parts(u64),
}

/// Builds what is due.
pub struct Builder {
    client: Client,
    config: Config,
    metrics: RollupMetrics,
    /// When each was tried last.
    tried: HashMap<Job, Instant>,
    /// What was said last of a store that does not build, and when.
    failing: Option<(String, Instant)>,
}

impl Builder {
    /// `client` reaches the database `profile` in which the schema was applied.
    pub fn new(client: Client, config: Config, metrics: RollupMetrics) -> Self {
        let client = client
            .with_setting("log_comment", "hearth-rollup")
            .with_setting("max_memory_usage", MAX_MEMORY.to_string())
            .with_setting("max_bytes_before_external_group_by", MEMORY_OF_GROUPS.to_string())
            .with_setting("max_execution_time", MAX_SECONDS.to_string())
            .with_setting("timeout_overflow_mode", "throw")
            // Nobody waits for it: samples come first.
            .with_setting("max_threads", "1");
        Self { client, config, metrics, tried: HashMap::new(), failing: None }
    }

    /// Looks until `stop`. A build that is cut off then is made anew after the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let looks = async {
            loop {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
                match self.look(now).await {
                    Ok(_) => self.note_success(),
                    Err(error) => self.note_failure(&error),
                }
                tokio::time::sleep(self.config.check).await;
            }
        };
        tokio::select! {
            () = looks => {}
            () = stop.cancelled() => {}
        }
    }

    /// Builds everything that is due at `now`, one after the other, and answers what it
    /// built. What failed or was built is not tried again for a while.
    ///
    /// # Errors
    /// The first build that failed. The others wait for the next look.
    pub async fn look(&mut self, now: u32) -> Result<Vec<Job>, RollupError> {
        self.drop_abandoned().await?;
        let pause = self.config.check * LOOKS_BETWEEN_BUILDS;
        self.tried.retain(|_, tried| tried.elapsed() < pause);
        let mut built = Vec::new();
        loop {
            let coverage = self.coverage().await?;
            let due = due(&coverage, now, self.config.after, &self.config.retention);
            self.metrics.waiting.set(i64::try_from(due.len()).unwrap_or(i64::MAX));
            let Some(job) = due.into_iter().find(|job| !self.tried.contains_key(job)) else {
                return Ok(built);
            };
            let started = Instant::now();
            self.tried.insert(job, started);
            self.build(job, &coverage).await?;
            self.metrics.built(job, started.elapsed().as_secs_f64());
            built.push(job);
        }
    }

    async fn build(&self, job: Job, before: &Coverage) -> Result<(), RollupError> {
        let staging = format!("{STAGING}{}", Uuid::new_v4().simple());
        let create = format!("CREATE TABLE profile.{staging} AS profile.{}", job.table());
        self.execute("make a table to fill", &create).await?;
        let built = self.fill_and_swap(job, before, &staging).await;
        let dropped = self.drop_table(&staging).await;
        built.and(dropped)
    }

    async fn fill_and_swap(&self, job: Job, before: &Coverage, staging: &str) -> Result<(), RollupError> {
        let build = build_number();
        for slice in job.slices(before) {
            self.execute("fill a rollup", &job.fill(staging, before, build, slice)).await?;
        }
        if self.parts(staging).await? > 1 {
            // Several parts would be renamed one by one, and a crash between could not be seen.
            self.execute("merge a rollup", &format!("OPTIMIZE TABLE profile.{staging} FINAL")).await?;
        }
        let parts = self.parts(staging).await?;
        if parts != 1 {
            return Err(RollupError::Parts(parts));
        }
        if !job.has_its_source(before, &self.coverage().await?) {
            return Err(RollupError::Changed);
        }
        Point::CollectorDuringRebuild.reached();
        let swap = format!(
            "ALTER TABLE profile.{} REPLACE PARTITION ID '{}-1-1' FROM profile.{staging}",
            job.table(),
            job.start()
        );
        self.execute("swap a rollup", &swap).await?;
        tracing::debug!("rolled up {job:?}, of {}", utc(job.start()));
        Ok(())
    }

    /// What a builder that was killed left.
    async fn drop_abandoned(&self) -> Result<(), RollupError> {
        let question = "SELECT name FROM system.tables WHERE database = 'profile' AND startsWith(name, ?) \
                        AND metadata_modification_time <= now() - toIntervalSecond(?)";
        let names = self.client.query(question).bind(STAGING).bind(self.config.abandoned_after.as_secs());
        for name in within("look for tables of dead builders", names.fetch_all::<String>()).await? {
            tracing::info!("dropping profile.{name}: its builder did not");
            self.drop_table(&name).await?;
        }
        Ok(())
    }

    async fn drop_table(&self, name: &str) -> Result<(), RollupError> {
        let drop = format!("DROP TABLE IF EXISTS profile.{name} SYNC");
        self.execute("drop the table that was filled", &drop).await
    }

    async fn parts(&self, staging: &str) -> Result<u64, RollupError> {
        let question = format!("SELECT uniqExact(_part) FROM profile.{staging}");
        within("count the parts of a rollup", self.client.query(&question).fetch_one::<u64>()).await
    }

    async fn coverage(&self) -> Result<Coverage, RollupError> {
        within("look what is there", Coverage::read(&self.client)).await
    }

    async fn execute(&self, what: &'static str, statement: &str) -> Result<(), RollupError> {
        within(what, self.client.query_raw(statement).execute()).await
    }

    fn note_success(&mut self) {
        if self.failing.take().is_some() {
            tracing::info!("rollups are built again");
        }
    }

    /// Says why when that changes, and else now and then.
    fn note_failure(&mut self, error: &RollupError) {
        self.metrics.failures.inc();
        let text = error.to_string();
        let is_known = self
            .failing
            .as_ref()
            .is_some_and(|(known, said)| *known == text && said.elapsed() < FAILURE_REPEAT);
        if !is_known {
            tracing::warn!("a rollup was not built, trying again until it is: {text}");
            self.failing = Some((text, Instant::now()));
        }
    }
}

impl Job {
    fn start(self) -> u32 {
        match self {
            Self::Hour(start) | Self::Day(start) => start,
        }
    }

    /// The table that it is a partition of.
    fn table(self) -> &'static str {
        match self {
            Self::Hour(_) => "in_process_1m",
            Self::Day(_) => "in_process_1h",
        }
    }

    /// How many raw rows it is made from, as counted before.
    fn built_from(self, before: &Coverage) -> u64 {
        match self {
            Self::Hour(hour) => before.raw_rows(hour),
            Self::Day(day) => before.minutes_of(day),
        }
    }

    /// Its time in so many pieces that a statement can do each, as first and last second.
    /// None has a part of a step that another has too, so they are summed up apart.
    fn slices(self, before: &Coverage) -> Vec<(u32, u32)> {
        let (length, step) = match self {
            Self::Hour(_) => (HOUR, 60),
            Self::Day(_) => (DAY, HOUR),
        };
        let steps = length / step;
        let wanted = self.built_from(before).div_ceil(ROWS_AT_ONCE).clamp(1, steps.into());
        let slice = step * (steps / u32::try_from(wanted).unwrap_or(steps));
        let starts = (0..length).step_by(slice as usize);
        starts.map(|at| (self.start() + at, self.start() + (at + slice).min(length) - 1)).collect()
    }

    /// Fills `staging` with what is there now of a slice, under what was there before.
    fn fill(self, staging: &str, before: &Coverage, build: u64, (from, until): (u32, u32)) -> String {
        let (source, step, period) = match self {
            Self::Hour(_) => (
                "in_process_local",
                "toStartOfMinute",
                // A row is of one process, whose period does not change within a window.
                "intDivOrZero(profile_value, sample_count)",
            ),
            Self::Day(_) => ("in_process_1m", "toStartOfHour", "period"),
        };
        let built_from = self.built_from(before);
        format!(
            "INSERT INTO profile.{staging} (time, built_from, build, {KEY}, period, sample_count, profile_value)\n\
             SELECT {step}(time) AS step, {built_from}, {build}, {KEY}, {period} AS of_one, sum(sample_count), \
             sum(profile_value)\n\
             FROM profile.{source}\n\
             WHERE time >= toDateTime({from}, 'UTC') AND time <= toDateTime({until}, 'UTC')\n\
             GROUP BY step, {KEY}, of_one"
        )
    }

    /// Whether what it read, between these two looks, is what `before` says, or more.
    fn has_its_source(self, before: &Coverage, after: &Coverage) -> bool {
        match self {
            Self::Hour(hour) => after.raw_rows(hour) >= before.raw_rows(hour),
            // An hour that was swapped has another build, be it from as many rows.
            Self::Day(day) => before.minutes.range(hours_of(day)).eq(after.minutes.range(hours_of(day))),
        }
    }
}

/// Unlike that of any other build, of whichever collector: nanoseconds since 1970.
fn build_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(1)
}

async fn within<T>(
    what: &'static str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, RollupError> {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.unwrap_or(Err(Error::TimedOut)).map_err(|source| RollupError::Statement { what, source })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::coverage::tests::coverage;
    use super::*;

    #[test]
    fn an_hour_is_filled_from_raw_and_a_day_from_minutes() {
        let before = coverage("raw 50=7, min 50=7, min 51=5");
        let fill = |job: Job| {
            let slices = job.slices(&before).into_iter().map(|slice| job.fill("s", &before, 9, slice));
            slices.collect::<Vec<_>>().join(";\n")
        };
        assert_snapshot!(fill(Job::Hour(50 * HOUR)), @r"
        INSERT INTO profile.s (time, built_from, build, app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, pod_ns, pod_node, pod_group, pod_group_type, container, process_name, thread_name, main_thread, stack_id, stack_end, period, sample_count, profile_value)
        SELECT toStartOfMinute(time) AS step, 7, 9, app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, pod_ns, pod_node, pod_group, pod_group_type, container, process_name, thread_name, main_thread, stack_id, stack_end, intDivOrZero(profile_value, sample_count) AS of_one, sum(sample_count), sum(profile_value)
        FROM profile.in_process_local
        WHERE time >= toDateTime(180000, 'UTC') AND time <= toDateTime(183599, 'UTC')
        GROUP BY step, app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, pod_ns, pod_node, pod_group, pod_group_type, container, process_name, thread_name, main_thread, stack_id, stack_end, of_one
        ");
        assert_snapshot!(fill(Job::Day(2 * DAY)), @r"
        INSERT INTO profile.s (time, built_from, build, app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, pod_ns, pod_node, pod_group, pod_group_type, container, process_name, thread_name, main_thread, stack_id, stack_end, period, sample_count, profile_value)
        SELECT toStartOfHour(time) AS step, 12, 9, app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, pod_ns, pod_node, pod_group, pod_group_type, container, process_name, thread_name, main_thread, stack_id, stack_end, period AS of_one, sum(sample_count), sum(profile_value)
        FROM profile.in_process_1m
        WHERE time >= toDateTime(172800, 'UTC') AND time <= toDateTime(259199, 'UTC')
        GROUP BY step, app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, pod_ns, pod_node, pod_group, pod_group_type, container, process_name, thread_name, main_thread, stack_id, stack_end, of_one
        ");
    }

    #[test]
    fn what_is_too_much_for_a_statement_is_filled_in_slices() {
        let slices = |job: Job, rows: u64| job.slices(&coverage(&format!("raw 48={rows}, min 48={rows}")));
        let (hour, day) = (Job::Hour(2 * DAY), Job::Day(2 * DAY));
        assert_eq!(slices(hour, 50_000_000), [(172_800, 176_399)]);
        assert_eq!(slices(hour, 50_000_001), [(172_800, 174_599), (174_600, 176_399)]);
        assert_eq!(slices(day, 50_000_000), [(172_800, 259_199)]);
        for (job, rows, pieces, step) in [(hour, 350_000_000, 8, 60), (day, 350_000_000, 8, HOUR)] {
            let slices = slices(job, rows);
            assert_eq!(slices.len(), pieces);
            assert!(slices.iter().all(|(from, _)| from % step == 0), "{slices:?}");
            assert!(slices.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{slices:?}");
        }
        assert_eq!(slices(hour, u64::MAX).len(), 60);
        assert_eq!(slices(day, u64::MAX).len(), 24);
    }

    #[test]
    fn what_was_swapped_or_dropped_while_it_was_read_is_not_used() {
        let check =
            |job: Job, before: &str, after: &str| job.has_its_source(&coverage(before), &coverage(after));
        let hour = Job::Hour(2 * HOUR);
        assert!(check(hour, "raw 2=7", "raw 2=7"));
        assert!(check(hour, "raw 2=7", "raw 2=8, raw 3=1"));
        assert!(!check(hour, "raw 2=7", "raw 2=6"));
        assert!(!check(hour, "raw 2=7", ""));
        let day = Job::Day(0);
        assert!(check(day, "min 2=7, min 23=1", "min 2=7, min 23=1, min 24=1"));
        assert!(!check(day, "min 2=7", "min 2=8"));
        assert!(!check(day, "min 2=7", "min 2=7 mixed"));
        assert!(!check(day, "min 2=7, min 23=1", "min 2=7"));
    }
}
