//! Owns the data directory and runs queries on the engine.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::exception::{Exception, code};
use crate::ffi::{Connection, FfiError, Library, QueryResult, Summary};
use crate::insert::{self, Insert, Kind};
use crate::locate;

const LOCK_FILE: &str = "hearth-clickhouse.lock";
/// How often the engine is asked to shut down, and how long between two times.
/// Not for long: once a table was made, version 26.7.3 never agrees, though it
/// closed all tables with the last connection.
const SHUTDOWN_ATTEMPTS: u32 = 5;
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(20);

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No libchdb.so.
    #[error(transparent)]
    NotFound(#[from] locate::NotFound),
    /// The library does not load or does not open the directory.
    #[error(transparent)]
    Ffi(#[from] FfiError),
    /// The data directory cannot be made or written.
    #[error("data directory {dir}: {source}")]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// Another process runs on the directory.
    #[error("data directory {dir} is in use by process {holder}")]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Its pid as it wrote it, or "unknown".
        holder: String,
    },
    /// The engine started and failed its first query.
    #[error("the engine failed its first query: {0}")]
    FirstQuery(String),
}

/// One statement and the session it wants.
#[derive(Debug, Default)]
pub struct Statement {
    /// SQL, and after it what is to be inserted.
    pub sql: Vec<u8>,
    /// Format of the result where the SQL names none.
    pub format: String,
    /// The session's database.
    pub database: Option<String>,
    /// The session's settings.
    pub settings: Vec<(String, String)>,
    /// Values of `{name:Type}`.
    pub params: Vec<(String, String)>,
}

/// What a statement answered.
#[derive(Debug)]
pub struct Answer {
    /// In the statement's format, in the engine's memory.
    pub result: QueryResult,
    /// What it cost.
    pub summary: Summary,
    /// Time in the engine, its queue not counted.
    pub elapsed: Duration,
}

/// How the engine stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Wholly.
    Clean,
    /// A statement did not end in time.
    QueriesCut,
    /// All statements ended; a thread of the engine's own did not.
    ThreadsLeft,
}

/// The running engine: one per process, on one data directory.
///
/// Each statement gets a connection of its own (0.2 ms), because a connection
/// is a session: settings, database and temporary tables of one request must
/// not be seen by the next. One idle connection is held throughout, since
/// closing the last one stops the engine.
#[derive(Debug)]
pub struct Engine {
    library: Arc<Library>,
    data_dir: PathBuf,
    version: String,
    /// Connection that keeps the engine up; taken at the stop.
    keeper: Mutex<Option<Connection>>,
    slots: Arc<Semaphore>,
    slot_count: u32,
    /// Locked while we live; the kernel releases it however we end.
    _lock: File,
}

impl Engine {
    /// Locks the directory, loads the library and starts the engine. At most
    /// `max_concurrent` statements run at once; more of them wait.
    /// Blocks for about 0.3 s.
    pub fn start(
        data_dir: &Path,
        libchdb: Option<&Path>,
        max_concurrent: u32,
    ) -> Result<Arc<Self>, EngineError> {
        let lock = lock(data_dir)?;
        let data_dir = data_dir
            .canonicalize()
            .map_err(|source| EngineError::DataDir { dir: data_dir.into(), source })?;
        let library = Library::load(&locate::libchdb(libchdb)?)?;
        let mut keeper = library.connect(&data_dir)?;
        let version =
            keeper.query(b"SELECT version()", "TabSeparated", &[]).map_err(EngineError::FirstQuery)?;
        let version = String::from_utf8_lossy(version.as_ref()).trim().to_owned();
        Ok(Arc::new(Self {
            library,
            data_dir,
            version,
            keeper: Mutex::new(Some(keeper)),
            slots: Arc::new(Semaphore::new(max_concurrent as usize)),
            slot_count: max_concurrent,
            _lock: lock,
        }))
    }

    /// ClickHouse's version, such as "26.7.2.1".
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs a statement on a blocking thread. It runs to its end even when the
    /// caller goes away.
    pub async fn run(self: &Arc<Self>, statement: Statement) -> Result<Answer, Exception> {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| Exception::new(code::ABORTED, "the server is stopping"))?;
        let engine = Arc::clone(self);
        let joined = tokio::task::spawn_blocking(move || {
            let answer = engine.run_blocking(&statement);
            drop(slot);
            answer
        })
        .await;
        joined.unwrap_or_else(|error| {
            Err(Exception::new(code::UNKNOWN_EXCEPTION, format_args!("query thread: {error}")))
        })
    }

    /// Lets running statements end, for at most `patience`, and stops the
    /// engine. Later statements are refused.
    pub async fn stop(&self, patience: Duration) -> Stopped {
        let idle = tokio::time::timeout(patience, self.slots.acquire_many(self.slot_count)).await;
        self.slots.close();
        drop(self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
        if idle.is_err() {
            // With a statement still running the engine refuses to shut down.
            return Stopped::QueriesCut;
        }
        // It answers no while one of its threads is still on its way out.
        for _ in 0..SHUTDOWN_ATTEMPTS {
            if self.library.shutdown() {
                return Stopped::Clean;
            }
            tokio::time::sleep(SHUTDOWN_PAUSE).await;
        }
        Stopped::ThreadsLeft
    }

    fn run_blocking(&self, statement: &Statement) -> Result<Answer, Exception> {
        let Statement { sql, format, database, settings, params } = statement;
        let started = Instant::now();
        let mut connection = self
            .library
            .connect(&self.data_dir)
            .map_err(|error| Exception::new(code::UNKNOWN_EXCEPTION, error))?;
        if let Some(database) = database {
            let sql = format!("USE {}", quoted(database, '`'));
            connection.query(sql.as_bytes(), "Null", &[]).map_err(Exception::from_engine)?;
        }
        if !settings.is_empty() {
            let sql = set_statement(settings);
            connection.query(sql.as_bytes(), "Null", &[]).map_err(Exception::from_engine)?;
        }
        let result = match insert::classify(sql) {
            // The stream interface does not know parameters within VALUES.
            Kind::Insert(Insert { head, format, data }) if params.is_empty() || format != "Values" => {
                connection.insert(head, format, data, params)
            }
            Kind::Plain | Kind::Insert(_) => connection.query(sql, format, params),
            Kind::InsertFromInput => {
                return Err(Exception::new(
                    code::NOT_IMPLEMENTED,
                    "INSERT … SELECT … FROM input(…): insert the data as it is",
                ));
            }
        };
        let result = result.map_err(Exception::from_engine)?;
        Ok(Answer { summary: result.summary(), result, elapsed: started.elapsed() })
    }
}

fn lock(data_dir: &Path) -> Result<File, EngineError> {
    let fail = |source| EngineError::DataDir { dir: data_dir.into(), source };
    std::fs::create_dir_all(data_dir).map_err(fail)?;
    let path = data_dir.join(LOCK_FILE);
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The pid is a courtesy; the lock is what counts.
            if file.read_to_string(&mut holder).is_err() || holder.trim().is_empty() {
                holder = "unknown".into();
            }
            return Err(EngineError::InUse { dir: data_dir.into(), holder: holder.trim().into() });
        }
        Err(TryLockError::Error(source)) => return Err(fail(source)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(fail)?;
    writeln!(file, "{}", std::process::id()).map_err(fail)?;
    Ok(file)
}

fn set_statement(settings: &[(String, String)]) -> String {
    let pairs: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("{} = {}", quoted(name, '`'), quoted(value, '\'')))
        .collect();
    format!("SET {}", pairs.join(", "))
}

/// A string literal or quoted identifier of ClickHouse's SQL.
fn quoted(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        if character == quote || character == '\\' {
            out.push('\\');
        }
        out.push(character);
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_cannot_leave_their_quotes() {
        let settings = [("max_threads".to_owned(), "1".to_owned()), ("a`b".into(), r"x'\".into())];
        assert_eq!(set_statement(&settings), r"SET `max_threads` = '1', `a\`b` = 'x\'\\'");
    }
}
