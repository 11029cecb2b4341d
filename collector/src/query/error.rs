//! Why a question got no answer.

use clickhouse::error::Error as ClickHouse;

/// A question that was understood and could not be answered.
///
/// The text is for the log; [`QueryError::advice`] is for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// As many questions as allowed are being answered.
    #[error("too many questions at once")]
    Busy,
    /// The answer has more rows or bytes than [`super::Limits`] allow, or needs more memory.
    #[error("the answer is too large")]
    TooMuch(#[source] Option<ClickHouse>),
    /// A statement ran into its limit of time.
    #[error("the query took too long")]
    TooSlow(#[source] Option<ClickHouse>),
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

impl QueryError {
    /// What whoever asked should know and do. Tells nothing of the inside.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Busy => "too many queries at once: try again in a second",
            Self::TooMuch(_) => {
                "the answer is too large: ask for a shorter time range, or narrow it with a filter"
            }
            Self::TooSlow(_) => {
                "the query took too long: ask for a shorter time range, or narrow it with a filter"
            }
            Self::Unavailable(_) => {
                "the store (ClickHouse) cannot be reached at the moment: try again; see the collector's log"
            }
            Self::Failed(_) => "the query failed in the store (ClickHouse): see the collector's log",
            Self::Draw(_) => "the flame graph could not be drawn: see the collector's log",
        }
    }
}

impl From<ClickHouse> for QueryError {
    fn from(error: ClickHouse) -> Self {
        match &error {
            ClickHouse::Network(_) | ClickHouse::TimedOut => Self::Unavailable(error),
            ClickHouse::BadResponse(text) => match exception_code(text) {
                // TOO_MANY_ROWS, MEMORY_LIMIT_EXCEEDED, TOO_MANY_BYTES, TOO_MANY_ROWS_OR_BYTES
                Some(158 | 241 | 307 | 396) => Self::TooMuch(Some(error)),
                // TIMEOUT_EXCEEDED, TOO_SLOW
                Some(159 | 160) => Self::TooSlow(Some(error)),
                // TOO_MANY_SIMULTANEOUS_QUERIES
                Some(202) => Self::Busy,
                Some(_) => Self::Failed(error),
                // Not ClickHouse's words: something before it, such as a proxy.
                None => Self::Unavailable(error),
            },
            _ => Self::Failed(error),
        }
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

    fn check(response: &str, expected: &str) {
        assert_eq!(QueryError::from(ClickHouse::BadResponse(response.to_owned())).to_string(), expected);
    }

    #[test]
    fn clickhouses_limits_are_told_from_its_failures() {
        check(
            "Code: 396. DB::Exception: Limit for result exceeded, max rows: 10.00, current rows: 11.00. (TOO_MANY_ROWS_OR_BYTES)",
            "the answer is too large",
        );
        check("Code: 241. DB::Exception: Memory limit exceeded", "the answer is too large");
        check("Code: 159. DB::Exception: Timeout exceeded", "the query took too long");
        check("Code: 202. DB::Exception: Too many", "too many questions at once");
        check("Code: 60. DB::Exception: Unknown table", "ClickHouse did not answer as expected");
        check("Code: 60", "ClickHouse did not answer as expected");
        check("502 Bad Gateway", "ClickHouse cannot be reached");
    }
}
