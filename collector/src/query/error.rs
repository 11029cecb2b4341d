//! Why a question got no answer.

use clickhouse::error::Error as ClickHouse;

use super::Limits;

/// A question that was understood and could not be answered.
///
/// The text is for the log; [`QueryError::advice`] is for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// As many questions as allowed are being answered.
    #[error("too many questions at once")]
    Busy,
    /// The answer, or finding it, takes more than [`Limits`] allow.
    #[error(transparent)]
    TooMuch(Exceeded),
    /// ClickHouse cannot be reached.
    #[error("ClickHouse cannot be reached")]
    Unavailable(#[source] ClickHouse),
    /// ClickHouse refused a statement, or its answer was not understood.
    #[error("ClickHouse did not answer as expected")]
    Failed(#[source] ClickHouse),
    /// A flame graph could not be drawn.
    #[error("the flame graph could not be drawn")]
    Draw(#[from] hearth_profile::write::svg::SvgError),
}

/// Which limit a statement ran into.
#[derive(Debug, thiserror::Error)]
#[error("the limit on {limit} was exceeded")]
pub struct Exceeded {
    /// Of what.
    pub limit: Limit,
    /// How much is allowed; `None` if it is not our limit but the store's own.
    pub most: Option<u64>,
    /// What ClickHouse said; `None` if it said nothing.
    pub source: Option<ClickHouse>,
}

/// What a statement may take only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Rows: [`Limits::max_rows`].
    Rows,
    /// Bytes: [`Limits::max_bytes`].
    Bytes,
    /// Bytes of ClickHouse's memory: [`Limits::max_memory`].
    Memory,
    /// Seconds: [`Limits::max_execution_seconds`].
    Seconds,
}

impl QueryError {
    /// What whoever asked should know and do. Tells nothing of the inside.
    pub fn advice(&self) -> String {
        let text = match self {
            Self::Busy => "too many queries at once: try again in a second",
            Self::TooMuch(exceeded) => return exceeded.advice(),
            Self::Unavailable(_) => {
                "the store (ClickHouse) cannot be reached at the moment: try again; see the collector's log"
            }
            Self::Failed(_) => "the query failed in the store (ClickHouse): see the collector's log",
            Self::Draw(_) => "the flame graph could not be drawn: see the collector's log",
        };
        text.to_owned()
    }

    /// What `error` means for a statement that was held to `limits`.
    pub(super) fn of(error: ClickHouse, limits: &Limits) -> Self {
        let text = match &error {
            ClickHouse::Network(_) | ClickHouse::TimedOut => return Self::Unavailable(error),
            ClickHouse::BadResponse(text) => text,
            _ => return Self::Failed(error),
        };
        let (limit, most) = match exception_code(text) {
            // TOO_MANY_ROWS: of groups it is ours, of rows read the store's own.
            Some(158) => (Limit::Rows, text.contains("GROUP BY").then_some(limits.max_rows)),
            // TOO_MANY_ROWS_OR_BYTES, of the result
            Some(396) if text.contains("bytes") => (Limit::Bytes, Some(limits.max_bytes)),
            Some(396) => (Limit::Rows, Some(limits.max_rows)),
            // MEMORY_LIMIT_EXCEEDED: of this query it is ours, of the user or the server it is not.
            Some(241) => {
                let of_query = text.contains("Query memory") || text.contains("(for query)");
                (Limit::Memory, of_query.then_some(limits.max_memory))
            }
            // TOO_MANY_BYTES
            Some(307) => (Limit::Bytes, None),
            // TIMEOUT_EXCEEDED
            Some(159) => (Limit::Seconds, Some(limits.max_execution_seconds)),
            // TOO_SLOW: by the store's own estimate
            Some(160) => (Limit::Seconds, None),
            // TOO_MANY_SIMULTANEOUS_QUERIES
            Some(202) => return Self::Busy,
            Some(_) => return Self::Failed(error),
            // Not ClickHouse's words: something before it, such as a proxy.
            None => return Self::Unavailable(error),
        };
        Self::TooMuch(Exceeded { limit, most, source: Some(error) })
    }
}

impl Exceeded {
    fn advice(&self) -> String {
        let (what, flag) = match self.limit {
            Limit::Rows => ("the answer is too large", "--query-max-rows"),
            Limit::Bytes => ("the answer is too large", "--query-max-bytes"),
            Limit::Memory => ("the query needs too much memory in the store", "--query-max-memory"),
            Limit::Seconds => ("the query took too long", "--query-timeout"),
        };
        let limit = match (self.most, self.limit) {
            (Some(most), Limit::Bytes | Limit::Memory) => format!("more than {} ({flag})", bytes(most)),
            (Some(most), limit) => format!("more than {most} {limit} ({flag})"),
            (None, limit) => format!("more {limit} than the store's own limit allows"),
        };
        format!("{what}, {limit}: ask for a shorter time range, or narrow it with a filter")
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::Memory => "memory",
            Self::Seconds => "seconds",
        })
    }
}

fn bytes(number: u64) -> String {
    match number {
        0 => "0 bytes".to_owned(),
        _ if number.is_multiple_of(1 << 20) => format!("{} MiB", number >> 20),
        _ => format!("{number} bytes"),
    }
}

/// The number in `Code: 159. DB::Exception: …`.
fn exception_code(text: &str) -> Option<u32> {
    let after = &text[text.find("Code: ")? + "Code: ".len()..];
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ClickHouse said, and what whoever asked is told.
    fn check(response: &str, expected: &str) {
        let error = QueryError::of(ClickHouse::BadResponse(response.to_owned()), &Limits::default());
        assert_eq!(error.advice(), expected);
    }

    const REMEDY: &str = "ask for a shorter time range, or narrow it with a filter";

    #[test]
    fn the_limit_that_was_hit_is_told_with_its_number_and_the_remedy() {
        check(
            "Code: 396. DB::Exception: Limit for result exceeded, max rows: 10.00, current rows: 11.00. (TOO_MANY_ROWS_OR_BYTES)",
            &format!("the answer is too large, more than 500000 rows (--query-max-rows): {REMEDY}"),
        );
        check(
            "Code: 158. DB::Exception: Limit for rows to GROUP BY exceeded: has 2 rows, maximum: 1. (TOO_MANY_ROWS)",
            &format!("the answer is too large, more than 500000 rows (--query-max-rows): {REMEDY}"),
        );
        check(
            "Code: 396. DB::Exception: Limit for result exceeded, max bytes: 3.00 B, current bytes: 20.00 B. (TOO_MANY_ROWS_OR_BYTES)",
            &format!("the answer is too large, more than 256 MiB (--query-max-bytes): {REMEDY}"),
        );
        check(
            "Code: 241. DB::Exception: Query memory limit exceeded: would use 4.00 MiB",
            &format!(
                "the query needs too much memory in the store, more than 1024 MiB (--query-max-memory): {REMEDY}"
            ),
        );
        check(
            "Code: 159. DB::Exception: Timeout exceeded: elapsed 30001 ms, maximum: 30000 ms. (TIMEOUT_EXCEEDED)",
            &format!("the query took too long, more than 30 seconds (--query-timeout): {REMEDY}"),
        );
    }

    #[test]
    fn the_stores_own_limits_are_not_put_on_our_flags() {
        let own = "than the store's own limit allows";
        check(
            "Code: 158. DB::Exception: Limit for rows (controlled by 'max_rows_to_read' setting) exceeded",
            &format!("the answer is too large, more rows {own}: {REMEDY}"),
        );
        check("Code: 307. DB::Exception", &format!("the answer is too large, more bytes {own}: {REMEDY}"));
        check(
            "Code: 241. DB::Exception: (total) memory limit exceeded: would use 9.00 GiB",
            &format!("the query needs too much memory in the store, more memory {own}: {REMEDY}"),
        );
        check("Code: 160. DB::Exception", &format!("the query took too long, more seconds {own}: {REMEDY}"));
    }

    #[test]
    fn clickhouses_limits_are_told_from_its_failures() {
        check("Code: 202. DB::Exception: Too many", "too many queries at once: try again in a second");
        let failed = "the query failed in the store (ClickHouse): see the collector's log";
        check("Code: 60. DB::Exception: Unknown table", failed);
        check("Code: 60", failed);
        check(
            "502 Bad Gateway",
            "the store (ClickHouse) cannot be reached at the moment: try again; see the collector's log",
        );
    }
}
