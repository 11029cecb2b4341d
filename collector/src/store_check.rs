//! Whether a ClickHouse can be our store, asked before anything is made there:
//! what is missing is said at the start and with its remedy, not by the first
//! batch that cannot be stored.

use std::time::Duration;

use clickhouse::Client;
use clickhouse::error::Error;

/// The oldest ClickHouse that is not refused, year and month: the oldest release
/// with long-term support that knows all that the tables and queries use.
pub const OLDEST: (u32, u32) = (25, 8);
/// The one that all tests run with.
pub const TESTED: (u32, u32) = (26, 7);

/// What our user must be allowed to do.
const GRANTS: [(&str, &[&str]); 3] = [
    (
        "profile.*",
        &[
            "CREATE DATABASE",
            "CREATE TABLE",
            "CREATE VIEW",
            "DROP TABLE",
            "DROP VIEW",
            "ALTER TABLE",
            "OPTIMIZE",
            "INSERT",
            "SELECT",
        ],
    ),
    ("system.processes", &["SELECT"]),
    ("system.tables", &["SELECT"]),
];

/// How long one question may take: who takes a connection and says nothing is not there.
pub const QUESTION_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a foreign answer that are quoted.
const QUOTED_BYTES: usize = 200;

/// Why a ClickHouse cannot be our store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nobody is there, yet.
    #[error("ClickHouse does not answer")]
    Unreachable(#[source] Error),
    /// Somebody else is.
    #[error(
        "what answers there is not ClickHouse's HTTP interface (port 8123 unless it was changed): {answer:?}"
    )]
    NotClickHouse {
        /// The beginning of its answer.
        answer: String,
    },
    /// It lacks what we need.
    #[error("ClickHouse {found} is too old: {}.{} or newer is needed ({}.{} is tested)", OLDEST.0, OLDEST.1, TESTED.0, TESTED.1)]
    TooOld {
        /// Its version.
        found: String,
    },
    /// It takes nothing from our user.
    #[error("{}", READ_ONLY)]
    ReadOnly,
    /// Our user may not do all that we do.
    #[error("the ClickHouse user {user} lacks rights; as an administrator: {}", grants.join("; "))]
    Rights {
        /// Our user.
        user: String,
        /// Statements that give what is missing.
        grants: Vec<String>,
    },
    /// It says no, for a reason that has a remedy.
    #[error("{remedy}: {answer}")]
    Refused {
        /// What to do.
        remedy: String,
        /// What it said.
        answer: String,
    },
    /// It says no.
    #[error("ClickHouse does not answer as expected")]
    Other(#[source] Error),
}

const READ_ONLY: &str = "the ClickHouse user may only read: \
    set readonly = 0 in its settings profile, or name another with --clickhouse-user";

impl StoreError {
    fn of(error: Error) -> Self {
        let Error::BadResponse(answer) = error else {
            return match error {
                Error::Network(_) | Error::TimedOut => Self::Unreachable(error),
                _ => Self::Other(error),
            };
        };
        match (exception_code(&answer), remedy(&answer)) {
            (None, _) => Self::NotClickHouse { answer: quoted(&answer) },
            (Some(_), Some(remedy)) => Self::Refused { remedy, answer },
            (Some(_), None) => Self::Other(Error::BadResponse(answer)),
        }
    }
}

/// Asks whether `client` reaches a ClickHouse of a sufficient version that takes
/// what we write.
pub async fn check(client: &Client) -> Result<(), StoreError> {
    let answer = ask(client, "SELECT version(), getSetting('readonly'), currentUser()").await?;
    let fields: Vec<&str> = answer.trim_end_matches('\n').split('\t').collect();
    let (&[version, read_only, user], Some(number)) = (&fields[..], year_and_month(&answer)) else {
        return Err(StoreError::NotClickHouse { answer: quoted(&answer) });
    };
    if number < OLDEST {
        return Err(StoreError::TooOld { found: version.to_owned() });
    }
    if number < TESTED {
        let (year, month) = TESTED;
        tracing::warn!("ClickHouse {version} is untested: {year}.{month} is what is tested");
    }
    if read_only != "0" {
        return Err(StoreError::ReadOnly);
    }
    let mut grants = Vec::new();
    for (object, privileges) in GRANTS {
        let mut missing = Vec::new();
        for privilege in privileges {
            if ask(client, &format!("CHECK GRANT {privilege} ON {object}")).await?.trim() != "1" {
                missing.push(*privilege);
            }
        }
        if !missing.is_empty() {
            grants.push(grant(&missing, object, user));
        }
    }
    if grants.is_empty() { Ok(()) } else { Err(StoreError::Rights { user: user.to_owned(), grants }) }
}

/// What to do about an exception of ClickHouse, if we know.
pub fn remedy(answer: &str) -> Option<String> {
    let code = exception_code(answer)?;
    Some(match code {
        164 => READ_ONLY.to_owned(),
        192..=194 | 516 => "ClickHouse does not let the user in: \
            check --clickhouse-user and --clickhouse-password-file"
            .to_owned(),
        497 => {
            let all = GRANTS.map(|(object, privileges)| grant(privileges, object, "hearth"));
            format!(
                "the ClickHouse user lacks rights; as an administrator, for a user hearth: {}",
                all.join("; ")
            )
        }
        243 => DISK_FULL.to_owned(),
        _ if answer.contains("No space left on device") => DISK_FULL.to_owned(),
        _ if answer.contains("Read-only file system") => {
            "ClickHouse's disk is mounted read-only: mount it for writing".to_owned()
        }
        _ => return None,
    })
}

const DISK_FULL: &str = "ClickHouse's disk is full: make room, or shorten the retention once there is some";

async fn ask(client: &Client, question: &str) -> Result<String, StoreError> {
    let mut answer = client.query_raw(question).fetch_bytes("TSV").map_err(StoreError::of)?;
    let bytes = tokio::time::timeout(QUESTION_PATIENCE, answer.collect()).await;
    let bytes = bytes.unwrap_or(Err(Error::TimedOut)).map_err(StoreError::of)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn grant(privileges: &[&str], object: &str, user: &str) -> String {
    // In backquotes a name may have dashes and dots.
    let user = user.replace('\\', r"\\").replace('`', r"\`");
    format!("GRANT {} ON {object} TO `{user}`", privileges.join(", "))
}

/// The number in `Code: 497. DB::Exception: …`.
fn exception_code(answer: &str) -> Option<u32> {
    answer.strip_prefix("Code: ")?.split_once('.')?.0.parse().ok()
}

/// Of a version such as `26.7.3.1` at the beginning of `text`.
fn year_and_month(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn quoted(answer: &str) -> String {
    let mut end = answer.len().min(QUOTED_BYTES);
    while !answer.is_char_boundary(end) {
        end -= 1;
    }
    answer[..end].trim().to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;

    use super::*;

    /// What `check` says of a server that answers the first question with
    /// `status` and `text`, and whether something is granted with `granted`.
    async fn check_against(status: u16, text: &'static str, granted: fn(&str) -> bool) -> String {
        let answer = move |question: String| async move {
            match question.strip_prefix("CHECK GRANT ") {
                Some(privilege) => (StatusCode::OK, format!("{}\n", u8::from(granted(privilege)))),
                None => (StatusCode::from_u16(status).unwrap(), text.to_owned()),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
        match check(&Client::default().with_url(url)).await {
            Ok(()) => "good".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn a_version_that_is_new_enough_is_taken() {
        for version in ["26.7.3.1\t0\thearth\n", "25.8.12.129\t0\thearth\n", "27.1.1.1\t0\thearth\n"] {
            assert_eq!(check_against(200, version, |_| true).await, "good", "{version}");
        }
        for (version, found) in [("24.12.1.1\t0\tx\n", "24.12.1.1"), ("25.7.9.9\t0\tx\n", "25.7.9.9")] {
            let expected = format!("ClickHouse {found} is too old: 25.8 or newer is needed (26.7 is tested)");
            assert_eq!(check_against(200, version, |_| true).await, expected);
        }
    }

    #[tokio::test]
    async fn who_is_not_clickhouse_is_told_apart() {
        let native = "Port 9000 is for clickhouse-client program\r\nYou must use port 8123 for HTTP.\r\n";
        let page = "<html>404 Not Found</html>";
        for (status, text) in
            [(400, native), (404, page), (200, page), (200, ""), (200, "1\t2\t3\n"), (502, "")]
        {
            let said = check_against(status, text, |_| true).await;
            assert!(said.contains("is not ClickHouse's HTTP interface"), "{said}");
            assert!(said.contains(text.split(['\r', '\t', '\n']).next().unwrap()), "{said}");
        }
    }

    #[tokio::test]
    async fn a_user_that_may_only_read_is_refused() {
        const READ_ONLY_SETTING: &str = "Code: 164. DB::Exception: Cannot modify 'max_result_rows' setting in \
            readonly mode. (READONLY) (version 25.8.12.129 (official build))";
        for (status, text) in [(200, "26.7.3.1\t1\tx\n"), (200, "26.7.3.1\t2\tx\n"), (500, READ_ONLY_SETTING)]
        {
            let said = check_against(status, text, |_| true).await;
            assert!(said.contains("may only read: set readonly = 0"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_wrong_password_is_named() {
        const WRONG: &str = "Code: 516. DB::Exception: hearth: Authentication failed: password is incorrect, or \
            there is no user with such name. (AUTHENTICATION_FAILED) (version 26.7.3.1 (official build))";
        let said = check_against(403, WRONG, |_| true).await;
        assert!(said.starts_with("ClickHouse does not let the user in: check --clickhouse-user"), "{said}");
        assert!(said.contains("hearth: Authentication failed"), "{said}");
    }

    #[tokio::test]
    async fn missing_rights_are_listed_as_they_are_to_be_granted() {
        let nothing = check_against(200, "26.7.3.1\t0\thearth\n", |_| false).await;
        assert_eq!(
            nothing,
            "the ClickHouse user hearth lacks rights; as an administrator: \
             GRANT CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, ALTER TABLE, \
             OPTIMIZE, INSERT, SELECT ON profile.* TO `hearth`; \
             GRANT SELECT ON system.processes TO `hearth`; \
             GRANT SELECT ON system.tables TO `hearth`"
        );
        let granted = |privilege: &str| !privilege.contains("VIEW") && !privilege.ends_with("processes");
        assert_eq!(
            check_against(200, "26.7.3.1\t0\thearth\n", granted).await,
            "the ClickHouse user hearth lacks rights; as an administrator: \
             GRANT CREATE VIEW, DROP VIEW ON profile.* TO `hearth`; \
             GRANT SELECT ON system.processes TO `hearth`"
        );
    }

    #[test]
    fn the_user_is_granted_to_whatever_its_name() {
        assert_eq!(grant(&["SELECT"], "x.*", "hearth-prod"), "GRANT SELECT ON x.* TO `hearth-prod`");
        assert_eq!(grant(&["SELECT"], "x.*", r"a`b\c"), r"GRANT SELECT ON x.* TO `a\`b\\c`");
    }

    #[test]
    fn exceptions_have_remedies() {
        let check = |answer: &str, expected: Option<&str>| {
            let found = remedy(answer);
            match expected {
                Some(expected) => assert!(found.as_ref().is_some_and(|r| r.contains(expected)), "{found:?}"),
                None => assert_eq!(found, None, "{answer}"),
            }
        };
        check(
            "Code: 497. DB::Exception: hearth: Not enough privileges. To execute this query, it's necessary to \
             have the grant CREATE VIEW ON profile.in_process. (ACCESS_DENIED)",
            Some("GRANT CREATE DATABASE, CREATE TABLE, CREATE VIEW"),
        );
        check(
            "Code: 164. DB::Exception: x: Cannot execute query in readonly mode. (READONLY)",
            Some("readonly = 0"),
        );
        check(
            "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)",
            Some("disk is full"),
        );
        check(
            "Code: 75. DB::ErrnoException: Cannot write to file: , errno: 28, strerror: No space left on device. \
             (CANNOT_WRITE_TO_FILE_DESCRIPTOR)",
            Some("disk is full"),
        );
        check(
            "Code: 76. DB::ErrnoException: x, errno: 30, strerror: Read-only file system.",
            Some("read-only"),
        );
        check("Code: 62. DB::Exception: Syntax error. (SYNTAX_ERROR)", None);
        check("No space left on device", None);
    }

    #[tokio::test]
    async fn who_listens_and_never_answers_is_waited_for_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::default().with_url(format!("http://{}", listener.local_addr().unwrap()));
        let checked = tokio::time::timeout(2 * QUESTION_PATIENCE, check(&client)).await;
        let error = checked.expect("it waits for ever").unwrap_err();
        assert!(matches!(error, StoreError::Unreachable(Error::TimedOut)), "{error:?}");
    }

    #[tokio::test]
    async fn who_is_not_there_is_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = check(&Client::default().with_url(url)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
    }
}
