//! ClickHouse exceptions: their code, their text, their HTTP status.

use axum::http::StatusCode;

/// Codes that this server raises itself.
pub mod code {
    /// The request's data cannot be decompressed.
    pub const CANNOT_DECOMPRESS: u32 = 271;
    /// A checksum of a compressed block is wrong.
    pub const CHECKSUM_DOESNT_MATCH: u32 = 40;
    /// A request argument makes no sense.
    pub const BAD_ARGUMENTS: u32 = 36;
    /// Something ClickHouse has and this server has not.
    pub const NOT_IMPLEMENTED: u32 = 48;
    /// A statement is not UTF-8 or broken otherwise.
    pub const SYNTAX_ERROR: u32 = 62;
    /// A file cannot be read.
    pub const CANNOT_READ: u32 = 74;
    /// A file cannot be written.
    pub const CANNOT_WRITE: u32 = 75;
    /// A statement that may change data where none may.
    pub const READONLY: u32 = 164;
    /// All places are taken.
    pub const TOO_MANY_QUERIES: u32 = 202;
    /// A query of this id runs already.
    pub const QUERY_ID_IN_USE: u32 = 216;
    /// The body is over its limit.
    pub const TOO_LARGE: u32 = 307;
    /// The client went away or sent a broken body.
    pub const NETWORK_ERROR: u32 = 210;
    /// Not for this client.
    pub const ACCESS_DENIED: u32 = 497;
    /// Wrong or missing user or password.
    pub const AUTHENTICATION_FAILED: u32 = 516;
    /// The server is stopping.
    pub const ABORTED: u32 = 236;
    /// The engine could not be reached.
    pub const UNKNOWN_EXCEPTION: u32 = 1002;
}

/// A failed request, as ClickHouse words it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Exception {
    /// ClickHouse's error number.
    pub code: u32,
    /// "Code: N. DB::Exception: …", without the version.
    pub message: String,
}

impl Exception {
    /// An exception of this server's own.
    pub fn new(code: u32, text: impl std::fmt::Display) -> Self {
        Self { code, message: format!("Code: {code}. DB::Exception: {text}.") }
    }

    /// One of the engine's, from its text.
    pub fn from_engine(message: String) -> Self {
        let code = message
            .strip_prefix("Code: ")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(code, _)| code.parse().ok())
            .unwrap_or(code::UNKNOWN_EXCEPTION);
        // Some texts bring the version, which `text` adds.
        let end = match message.trim_end().rsplit_once(" (version ") {
            Some((text, rest)) if rest.starts_with(|c: char| c.is_ascii_digit()) && rest.ends_with(')') => {
                text.len()
            }
            _ => message.len(),
        };
        Self { code, message: message[..end].to_owned() }
    }

    /// The text that is sent.
    pub fn text(&self, version: &str) -> String {
        format!("{} (version {version} (official build))\n", self.message)
    }

    /// The text within a body whose status was sent before, as ClickHouse puts it
    /// there since 25.11. `tag` is in the header `X-ClickHouse-Exception-Tag`.
    pub fn in_body(&self, version: &str, tag: &str) -> Vec<u8> {
        let text = self.text(version);
        format!("\r\n__exception__\r\n{tag}\r\n{text}{} {tag}\r\n__exception__\r\n", text.len()).into_bytes()
    }

    /// The HTTP status ClickHouse gives this code.
    pub fn status(&self) -> StatusCode {
        match self.code {
            // CANNOT_PARSE_*, ILLEGAL_*, wrong arguments, wrong data, wrong syntax.
            6 | 25 | 26 | 27 | 33 | 36 | 38 | 40 | 41 | 42 | 43 | 44 | 53 | 57 | 62 | 66 | 69 | 70 | 72
            | 117 | 130 | 131 | 167 | 168 | 223 | 271 | 321 | 380 | 386 | 427 | 456 | 457 => {
                StatusCode::BAD_REQUEST
            }
            // UNKNOWN_*.
            30 | 46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 139 | 336 | 511 => StatusCode::NOT_FOUND,
            192..=194 | code::ACCESS_DENIED | code::AUTHENTICATION_FAILED => StatusCode::FORBIDDEN,
            159 => StatusCode::REQUEST_TIMEOUT,
            209 | 76 | 439 | code::ABORTED | code::TOO_MANY_QUERIES => StatusCode::SERVICE_UNAVAILABLE,
            307 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The exception of whoever still waits when the server stops.
pub fn stopping() -> Exception {
    Exception::new(code::ABORTED, "the server is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine's text on the left, code and HTTP status on the right.
    fn check(message: &str, code: u32, status: u16) {
        let exception = Exception::from_engine(message.into());
        assert_eq!((exception.code, exception.status().as_u16()), (code, status), "{message}");
    }

    #[test]
    fn codes_and_statuses() {
        check("Code: 62. DB::Exception: Syntax error: failed. (SYNTAX_ERROR)", 62, 400);
        check("Code: 60. DB::Exception: Unknown table. (UNKNOWN_TABLE)", 60, 404);
        check("Code: 115. DB::Exception: Unknown setting. (UNKNOWN_SETTING)", 115, 404);
        check("Code: 241. DB::Exception: Memory limit. (MEMORY_LIMIT_EXCEEDED)", 241, 500);
        check("Code: 159. DB::Exception: Timeout. (TIMEOUT_EXCEEDED)", 159, 408);
        check("something else entirely", 1002, 500);
        check("Code: many. DB::Exception", 1002, 500);
    }

    #[test]
    fn the_version_is_told_once() {
        let check = |message: &str| {
            let text = Exception::from_engine(message.into()).text("26.7.3.1");
            assert_eq!(
                text,
                "Code: 27. DB::Exception: Cannot parse. (X) (version 26.7.3.1 (official build))\n"
            );
        };
        check("Code: 27. DB::Exception: Cannot parse. (X)");
        check("Code: 27. DB::Exception: Cannot parse. (X) (version 26.7.3.1)");
        check("Code: 27. DB::Exception: Cannot parse. (X) (version 26.7.3.1 (official build))\n");
    }

    #[test]
    fn own_exceptions_read_like_the_engines() {
        let exception = Exception::new(code::BAD_ARGUMENTS, "no query");
        assert_eq!(Exception::from_engine(exception.message.clone()), exception);
    }
}
