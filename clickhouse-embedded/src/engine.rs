//! Owns the data directory and runs queries on the engine.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::exception::{Exception, code, stopping};
use crate::execute::{execute, stream};
use crate::ffi::{Connection, FfiError, Library};
use crate::format::{self, Reading, Shape};
use crate::kill;
use crate::locate;
use crate::output::{Event, Outcome, Output, Stop};
use crate::quote::{quoted, set_statement};
use crate::request::MARK_SETTING;
use crate::spool::Spool;
use crate::wire::Encoding;

const LOCK_FILE: &str = "hearth-clickhouse.lock";
/// How often the engine is asked to shut down, and how long between two times.
/// Not for long: once a table was made, version 26.7.3 never agrees, though it
/// closed all tables with the last connection.
const SHUTDOWN_ATTEMPTS: u32 = 5;
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(20);
/// Between two attempts to end what nobody waits for: the first may come before
/// the statement is known to the engine.
const KILL_PAUSE: Duration = Duration::from_millis(100);
/// What [`Reading::is_read`] means in `system.processes`: whatever a statement
/// looked like, nothing that changes data is ended for its client's sake.
const READ_KINDS: &str = "'Select', 'Show', 'Describe', 'Explain', 'Exists', 'Check'";
/// How many requests may be received, wait or run for each statement that may
/// run: what each of them holds in memory is bounded, so all of it is.
const PLACES_PER_SLOT: usize = 4;

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
#[derive(Debug)]
pub struct Statement {
    /// SQL, and after it what is to be inserted.
    pub text: Spool,
    /// Format of the result where the SQL names none.
    pub format: String,
    /// The session's database.
    pub database: Option<String>,
    /// The session's settings.
    pub settings: Vec<(String, String)>,
    /// Values of `{name:Type}`.
    pub params: Vec<(String, String)>,
    /// No other running statement has it.
    pub query_id: String,
    /// How the answer is to be encoded.
    pub encoding: Encoding,
    /// The answer is made whole before any of it is sent.
    pub whole: bool,
    /// What the client expects of Native blocks.
    pub client_protocol_version: u64,
    /// `max_result_bytes` of an answer that is made whole, if the settings have none.
    pub max_result_bytes: u64,
}

/// A request's place among those that are received, wait or run.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    /// How much longer the request may wait for a slot.
    patience: Duration,
}

/// A running statement. A read is cancelled when this is dropped before its
/// end; anything else runs on.
#[derive(Debug)]
pub struct Running {
    events: mpsc::Receiver<Event>,
    /// Resolves when the statement's thread has ended.
    ended: Option<oneshot::Receiver<()>>,
    engine: Arc<Engine>,
    mark: String,
    is_read: bool,
    /// The format that the statement names or was given.
    pub format: Option<String>,
    /// How the answer's pieces are encoded.
    pub encoding: Encoding,
    /// What marks an exception in the midst of the body.
    pub tag: String,
}

impl Running {
    /// The next event; `None` after the last, or when the statement's thread is gone.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await;
        if !matches!(event, Some(Event::Piece(_))) {
            self.ended = None;
        }
        event
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut ended) = self.ended.take().filter(|_| self.is_read) else { return };
        // Without a runtime the process is on its way out, and the engine with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (engine, mark) = (Arc::clone(&self.engine), self.mark.clone());
        runtime.spawn(async move {
            loop {
                engine.kill_reads(Some(&mark)).await;
                if tokio::time::timeout(KILL_PAUSE, &mut ended).await.is_ok() {
                    return;
                }
            }
        });
    }
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
    time_zone: String,
    display_name: String,
    slots: Arc<Semaphore>,
    slot_count: u32,
    places: Arc<Semaphore>,
    queue_patience: Duration,
    /// Ids of statements that wait or run.
    query_ids: Mutex<HashSet<String>>,
    /// Answers that nobody takes are waited for no longer.
    cut: CancellationToken,
    /// Locked while we live; the kernel releases it however we end.
    _lock: File,
}

impl Engine {
    /// Locks the directory, loads the library and starts the engine. At most
    /// `max_concurrent` statements run at once; more of them wait, for at most
    /// `queue_patience`. Blocks for about 0.3 s.
    pub fn start(
        data_dir: &Path,
        libchdb: Option<&Path>,
        max_concurrent: u32,
        queue_patience: Duration,
    ) -> Result<Arc<Self>, EngineError> {
        let lock = lock(data_dir)?;
        let data_dir = data_dir
            .canonicalize()
            .map_err(|source| EngineError::DataDir { dir: data_dir.into(), source })?;
        let library = Library::load(&locate::libchdb(libchdb)?)?;
        let mut keeper = library.connect(&data_dir)?;
        let facts = keeper
            .query(b"SELECT version(), serverTimezone(), displayName()", "TabSeparated", &[])
            .map_err(EngineError::FirstQuery)?;
        let facts = String::from_utf8_lossy(facts.as_ref()).into_owned();
        let mut facts = facts.trim_end().split('\t').map(str::to_owned);
        let mut fact = || facts.next().unwrap_or_default();
        Ok(Arc::new(Self {
            library,
            data_dir,
            version: fact(),
            time_zone: fact(),
            display_name: fact(),
            keeper: Mutex::new(Some(keeper)),
            slots: Arc::new(Semaphore::new(max_concurrent as usize)),
            slot_count: max_concurrent,
            places: Arc::new(Semaphore::new(max_concurrent as usize * PLACES_PER_SLOT)),
            queue_patience,
            query_ids: Mutex::default(),
            cut: CancellationToken::new(),
            _lock: lock,
        }))
    }

    /// ClickHouse's version, such as "26.7.2.1".
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its time zone.
    pub fn time_zone(&self) -> &str {
        &self.time_zone
    }

    /// What it calls itself.
    pub fn display_name(&self) -> &str {
        &self.display_name
    }

    /// Where what does not fit into memory may be put.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Cancelled when the stop waits for clients no longer.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Runs a statement, on a thread of its own once there is a slot for it. The
    /// place is held until its answer was taken.
    pub fn start_statement(
        self: &Arc<Self>,
        statement: Statement,
        place: Place,
    ) -> Result<Running, Exception> {
        let reading = Reading::of(statement.text.head());
        let held_id = HeldId::take(self, &statement.query_id)?;
        // One piece waits while the one before is being sent.
        let (sender, events) = mpsc::channel(1);
        let (alive, ended) = oneshot::channel();
        let tag = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
        // Nobody else can have given it to another statement; after the id, by which people find theirs.
        let mark = format!("{} {}", statement.query_id, uuid::Uuid::new_v4());
        let running = Running {
            events,
            ended: Some(ended),
            engine: Arc::clone(self),
            mark: mark.clone(),
            is_read: reading.is_read,
            format: Some(reading.format.clone().unwrap_or_else(|| statement.format.clone())),
            encoding: statement.encoding,
            tag: tag.clone(),
        };
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            let slot = match engine.slot(&sender, &place, reading.is_read).await {
                Ok(Some(slot)) => slot,
                Ok(None) => return,
                Err(exception) => {
                    drop(held_id);
                    // The one that waits may have gone meanwhile.
                    let _ = sender.send(Event::Failed { exception, in_body: Bytes::new() }).await;
                    return;
                }
            };
            let pieces = sender.clone();
            let thread = tokio::task::spawn_blocking(move || {
                let mut output = Output::new(pieces, engine.cut.clone(), statement.encoding, tag);
                let outcome = engine.run(statement, mark, &reading, &mut output);
                // Who is told of the end may use the id and the slot.
                drop((held_id, slot, alive));
                output.end(outcome, engine.version())
            });
            match thread.await {
                // Not on the thread: a slow client would hold it without a slot.
                Ok(last) => {
                    for event in last {
                        // Nobody has to hear of the end.
                        let _ = sender.send(event).await;
                    }
                }
                Err(error) => tracing::error!("query thread: {error}"),
            }
            drop(place);
        });
        Ok(running)
    }

    /// A place for a request, before any of its body is received.
    pub async fn place(&self) -> Result<Place, Exception> {
        let began = Instant::now();
        let refusal = format!(
            "Too many requests: {} are received, wait or run, and none of them ended",
            self.slot_count as usize * PLACES_PER_SLOT
        );
        let permit = self.take_one_of(&self.places, self.queue_patience, refusal).await?;
        Ok(Place { _permit: permit, patience: self.queue_patience.saturating_sub(began.elapsed()) })
    }

    /// A slot to run in; none when the client of a read went away meanwhile.
    async fn slot(
        &self,
        sender: &mpsc::Sender<Event>,
        place: &Place,
        is_read: bool,
    ) -> Result<Option<OwnedSemaphorePermit>, Exception> {
        let refusal = format!("Too many simultaneous queries: {} ran", self.slot_count);
        tokio::select! {
            slot = self.take_one_of(&self.slots, place.patience, refusal) => slot.map(Some),
            () = sender.closed(), if is_read => Ok(None),
        }
    }

    async fn take_one_of(
        &self,
        permits: &Arc<Semaphore>,
        patience: Duration,
        refusal: String,
    ) -> Result<OwnedSemaphorePermit, Exception> {
        match tokio::time::timeout(patience, Arc::clone(permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(Exception::new(
                code::TOO_MANY_QUERIES,
                format_args!(
                    "{refusal} for all of {:?} (--max-concurrent, --queue-timeout)",
                    self.queue_patience
                ),
            )),
        }
    }

    /// Ends the read of that mark, if the engine knows it yet; without one all of them.
    async fn kill_reads(self: &Arc<Self>, mark: Option<&str>) {
        let of_mark = mark.map_or_else(String::new, |mark| {
            format!(" AND Settings['{MARK_SETTING}'] = {}", quoted(mark, '\''))
        });
        let sql = format!("KILL QUERY WHERE query_kind IN ({READ_KINDS}){of_mark} ASYNC");
        let engine = Arc::clone(self);
        let killed = tokio::task::spawn_blocking(move || {
            // A connection after the last one would start the engine anew.
            let keeper = engine.keeper.lock().unwrap_or_else(PoisonError::into_inner);
            if keeper.is_none() {
                return Ok(());
            }
            let mut connection =
                engine.library.connect(&engine.data_dir).map_err(|error| error.to_string())?;
            connection.query(sql.as_bytes(), "Null", &[]).map(drop)
        });
        match killed.await {
            Ok(Ok(())) => {}
            Ok(Err(message)) => tracing::warn!("cancelling a query: {message}"),
            Err(error) => tracing::warn!("cancelling a query: {error}"),
        }
    }

    /// After `patience` ends every read and every answer that waits for its
    /// client, those that start later too, until this future is dropped.
    pub async fn end_reads(self: &Arc<Self>, patience: Duration) -> Infallible {
        tokio::time::sleep(patience).await;
        self.cut.cancel();
        loop {
            self.kill_reads(None).await;
            tokio::time::sleep(KILL_PAUSE).await;
        }
    }

    /// Waits until no statement waits or runs. Later ones are refused.
    pub async fn idle(&self) {
        // An error: it was idle before.
        if let Ok(all) = self.slots.acquire_many(self.slot_count).await {
            self.slots.close();
            drop(all);
        }
    }

    /// Stops the engine, which closes all tables. It does not while a statement runs.
    pub async fn stop(&self) {
        drop(self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
        // It answers no while one of its threads is still on its way out.
        for _ in 0..SHUTDOWN_ATTEMPTS {
            if self.library.shutdown() {
                return;
            }
            tokio::time::sleep(SHUTDOWN_PAUSE).await;
        }
        // All tables are closed; what is left ends with the process.
        tracing::debug!("a thread of the engine did not end by itself");
    }

    fn run(
        &self,
        statement: Statement,
        mark: String,
        reading: &Reading,
        output: &mut Output,
    ) -> Result<Outcome, Stop> {
        let Statement {
            text,
            format,
            database,
            mut settings,
            params,
            query_id: _,
            encoding: _,
            whole,
            client_protocol_version,
            max_result_bytes,
        } = statement;
        let started = Instant::now();
        let named = reading.format.as_deref().unwrap_or(&format);
        let has = |wanted: &str| settings.iter().any(|(name, _)| name == wanted);
        let streams = reading.may_stream && text.is_in_memory() && !whole && !has(format::ARRAY_OF_ROWS);
        let has_totals = reading.may_have_totals || has(format::EXTREMES);
        let shape = match format::shape(named) {
            Shape::Header(_) if has_totals => Shape::Document,
            shape if streams => shape,
            _ => Shape::Document,
        };
        if named.eq_ignore_ascii_case("Native") {
            output.speak_native(client_protocol_version);
        }
        if shape == Shape::Document && !has("max_result_bytes") {
            settings.push(("max_result_bytes".into(), max_result_bytes.to_string()));
        }
        settings.push((MARK_SETTING.into(), mark));

        let mut connection = self
            .library
            .connect(&self.data_dir)
            .map_err(|error| Exception::new(code::UNKNOWN_EXCEPTION, error))?;
        if let Some(database) = database {
            let sql = format!("USE {}", quoted(&database, '`'));
            connection.query(sql.as_bytes(), "Null", &[]).map_err(Exception::from_engine)?;
        }
        let sql = set_statement(&settings);
        connection.query(sql.as_bytes(), "Null", &[]).map_err(Exception::from_engine)?;

        let mut outcome = Outcome::default();
        match shape {
            Shape::Rows | Shape::Header(_) => {
                stream(&mut connection, text.head(), &format, &params, shape, output, &mut outcome)?;
            }
            Shape::Document => {
                kill::stop_in_the_midst_of(text.head());
                let result = execute(&mut connection, text, &format, &params)?;
                outcome.summary = result.summary();
                outcome.result_bytes = result.as_ref().len() as u64;
                output.send(result.as_ref())?;
            }
        }
        outcome.elapsed = started.elapsed();
        Ok(outcome)
    }
}

/// Keeps a query id for one statement.
struct HeldId {
    engine: Arc<Engine>,
    query_id: String,
}

impl HeldId {
    fn take(engine: &Arc<Engine>, query_id: &str) -> Result<Self, Exception> {
        let mut held = engine.query_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.insert(query_id.to_owned()) {
            return Err(Exception::new(
                code::QUERY_ID_IN_USE,
                format_args!("Query with id = {query_id} is already running"),
            ));
        }
        Ok(Self { engine: Arc::clone(engine), query_id: query_id.to_owned() })
    }
}

impl Drop for HeldId {
    fn drop(&mut self) {
        self.engine.query_ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.query_id);
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
