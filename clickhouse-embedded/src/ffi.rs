//! The C interface of libchdb. All unsafe code of this crate is in this file.
//!
//! The functions are declared by hand after `chdb.h` of chDB 26.7.3; only what
//! is used here is declared.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use crate::exception::{Exception, code};
use libloading::os::unix::{Library as DynLibrary, RTLD_LOCAL, RTLD_NOW};

/// How much of an INSERT's data is handed over at once; the engine copies it.
const INSERT_PIECE_BYTES: usize = 256 << 10;

/// Why the engine could not be loaded or connected.
#[derive(Debug, thiserror::Error)]
pub enum FfiError {
    /// The dynamic loader refused the file.
    #[error("cannot load {path}: {source}")]
    Load {
        /// The library's path.
        path: PathBuf,
        /// What the loader said.
        source: libloading::Error,
    },
    /// The library lacks a function: another version than the pinned one.
    #[error("{path} lacks {symbol}: it is not the pinned version of libchdb")]
    Symbol {
        /// The library's path.
        path: PathBuf,
        /// The missing function.
        symbol: &'static str,
    },
    /// The data directory's name cannot be passed to C.
    #[error("data directory {0:?} contains a NUL byte or is not UTF-8")]
    DataDir(PathBuf),
    /// `chdb_connect` answered NULL; the engine gives no reason.
    #[error("the engine refused to open {0}")]
    Connect(PathBuf),
}

/// What the engine says a query cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// Rows read from storage.
    pub rows_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Rows written.
    pub rows_written: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

impl Summary {
    /// Adds the cost of another part.
    pub fn add(&mut self, other: Self) {
        self.rows_read += other.rows_read;
        self.bytes_read += other.bytes_read;
        self.rows_written += other.rows_written;
        self.bytes_written += other.bytes_written;
    }
}

#[repr(C)]
struct RawResult {
    _private: [u8; 0],
}
/// What `chdb_connect` hands out: a pointer to the connection handle.
type RawConnection = *mut *mut std::ffi::c_void;

type Connect = unsafe extern "C" fn(c_int, *const *const c_char) -> RawConnection;
type CloseConnection = unsafe extern "C" fn(RawConnection);
type QueryWithParams = unsafe extern "C" fn(
    *mut std::ffi::c_void,
    *const u8,
    usize,
    *const u8,
    usize,
    *const *const u8,
    *const usize,
    *const *const u8,
    *const usize,
    usize,
) -> *mut RawResult;
type RawInsert = *mut std::ffi::c_void;
type InsertWithParams = unsafe extern "C" fn(
    *mut std::ffi::c_void,
    *const u8,
    usize,
    *const u8,
    usize,
    *const *const u8,
    *const usize,
    *const *const u8,
    *const usize,
    usize,
) -> RawInsert;
type InsertAppend = unsafe extern "C" fn(RawInsert, *const u8, usize) -> c_int;
type InsertDone = unsafe extern "C" fn(RawInsert) -> *mut RawResult;
type InsertError = unsafe extern "C" fn(RawInsert) -> *const c_char;
type InsertDestroy = unsafe extern "C" fn(RawInsert);
type StreamFetch = unsafe extern "C" fn(*mut std::ffi::c_void, *mut RawResult) -> *mut RawResult;
type StreamCancel = unsafe extern "C" fn(*mut std::ffi::c_void, *mut RawResult);
type ResultBuffer = unsafe extern "C" fn(*mut RawResult) -> *const u8;
type ResultNumber = unsafe extern "C" fn(*mut RawResult) -> u64;
type ResultLength = unsafe extern "C" fn(*mut RawResult) -> usize;
type ResultError = unsafe extern "C" fn(*mut RawResult) -> *const c_char;
type ResultDestroy = unsafe extern "C" fn(*mut RawResult);
type SetSignalHandlers = unsafe extern "C" fn(c_int);
type Shutdown = unsafe extern "C" fn() -> c_int;

/// The loaded library. It is never unloaded: its threads outlive our last call.
pub struct Library {
    connect: Connect,
    close: CloseConnection,
    query: QueryWithParams,
    stream: QueryWithParams,
    stream_fetch: StreamFetch,
    stream_cancel: StreamCancel,
    insert: InsertWithParams,
    insert_append: InsertAppend,
    insert_done: InsertDone,
    insert_error: InsertError,
    insert_destroy: InsertDestroy,
    buffer: ResultBuffer,
    length: ResultLength,
    error: ResultError,
    rows_read: ResultNumber,
    bytes_read: ResultNumber,
    rows_written: ResultNumber,
    bytes_written: ResultNumber,
    destroy: ResultDestroy,
    shutdown: Shutdown,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Library")
    }
}

impl Library {
    /// Loads the library and keeps it from installing signal handlers.
    pub fn load(path: &Path) -> Result<Arc<Self>, FfiError> {
        // SAFETY: the initialisers of libchdb have no preconditions; the file
        // is the pinned build or the one the user named.
        let library = unsafe { DynLibrary::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|source| FfiError::Load { path: path.into(), source })?;

        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the type is the one chdb.h declares for this name.
                *unsafe { library.get($name) }.map_err(|_| FfiError::Symbol {
                    path: path.into(),
                    symbol: $name.strip_suffix('\0').unwrap_or($name),
                })?
            };
        }

        let set_signal_handlers: SetSignalHandlers = symbol!("chdb_set_signal_handlers_enabled\0");
        let loaded = Self {
            connect: symbol!("chdb_connect\0"),
            close: symbol!("chdb_close_conn\0"),
            query: symbol!("chdb_query_with_params_n\0"),
            stream: symbol!("chdb_stream_query_with_params_n\0"),
            stream_fetch: symbol!("chdb_stream_fetch_result\0"),
            stream_cancel: symbol!("chdb_stream_cancel_query\0"),
            insert: symbol!("chdb_stream_insert_with_params_n\0"),
            insert_append: symbol!("chdb_stream_append\0"),
            insert_done: symbol!("chdb_stream_done\0"),
            insert_error: symbol!("chdb_stream_insert_error\0"),
            insert_destroy: symbol!("chdb_destroy_insert_stream\0"),
            buffer: symbol!("chdb_result_buffer\0"),
            length: symbol!("chdb_result_length\0"),
            error: symbol!("chdb_result_error\0"),
            rows_read: symbol!("chdb_result_storage_rows_read\0"),
            bytes_read: symbol!("chdb_result_storage_bytes_read\0"),
            rows_written: symbol!("chdb_result_rows_written\0"),
            bytes_written: symbol!("chdb_result_bytes_written\0"),
            destroy: symbol!("chdb_destroy_query_result\0"),
            shutdown: symbol!("chdb_shutdown\0"),
        };
        // SAFETY: called before any connection, as chdb.h asks.
        unsafe { set_signal_handlers(0) };
        std::mem::forget(library);
        Ok(Arc::new(loaded))
    }

    /// Opens a connection, a session of its own. The first one starts the
    /// engine on `data_dir`; later ones must name the same directory.
    pub fn connect(self: &Arc<Self>, data_dir: &Path) -> Result<Connection, FfiError> {
        let path = data_dir
            .to_str()
            .and_then(|dir| CString::new(format!("--path={dir}")).ok())
            .ok_or_else(|| FfiError::DataDir(data_dir.into()))?;
        let arguments = [c"clickhouse".as_ptr(), path.as_ptr()];
        // SAFETY: both pointers are NUL-terminated and live for the call; the
        // engine copies what it keeps.
        let raw = unsafe { (self.connect)(2, arguments.as_ptr()) };
        if raw.is_null() {
            return Err(FfiError::Connect(data_dir.into()));
        }
        Ok(Connection { library: Arc::clone(self), raw })
    }

    /// Stops the engine's threads; every connection must be closed before.
    /// Answers whether all of them ended.
    pub fn shutdown(&self) -> bool {
        // SAFETY: no preconditions; with a connection still open it does nothing.
        unsafe { (self.shutdown)() == 0 }
    }
}

/// One session of the engine. It runs one query at a time, hence `&mut`.
#[derive(Debug)]
pub struct Connection {
    library: Arc<Library>,
    raw: RawConnection,
}

// SAFETY: chdb.h calls connections thread-safe; `&mut self` on query keeps one
// statement at a time on each.
unsafe impl Send for Connection {}

impl Connection {
    /// Runs a statement and returns its whole result. `params` are the values
    /// of `{name:Type}` in it, in ClickHouse's escaped text form. A statement
    /// that fails gives the engine's message ("Code: 60. DB::Exception: …").
    pub fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        params: &[(String, String)],
    ) -> Result<QueryResult, String> {
        let params = RawParams::of(params);
        // SAFETY: every pointer comes with its length and lives for the call;
        // the four arrays have `params.count()` entries; the connection is open.
        let raw = unsafe {
            (self.library.query)(
                *self.raw,
                sql.as_ptr(),
                sql.len(),
                format.as_ptr(),
                format.len(),
                params.names.as_ptr(),
                params.name_lengths.as_ptr(),
                params.values.as_ptr(),
                params.value_lengths.as_ptr(),
                params.count(),
            )
        };
        QueryResult::check(&self.library, raw)
    }

    /// Starts a SELECT whose result comes in chunks. What is wrong with it may
    /// also be said by the first chunk.
    pub fn stream(
        &mut self,
        sql: &[u8],
        format: &str,
        params: &[(String, String)],
    ) -> Result<ResultStream<'_>, String> {
        let params = RawParams::of(params);
        // SAFETY: as in `query`; the engine has read the parameters on return.
        let raw = unsafe {
            (self.library.stream)(
                *self.raw,
                sql.as_ptr(),
                sql.len(),
                format.as_ptr(),
                format.len(),
                params.names.as_ptr(),
                params.name_lengths.as_ptr(),
                params.values.as_ptr(),
                params.value_lengths.as_ptr(),
                params.count(),
            )
        };
        let handle = QueryResult::check(&self.library, raw)?;
        Ok(ResultStream { connection: self, handle, ended: false })
    }

    /// Runs an INSERT whose data is read from `data` in `format`. `head` is the
    /// statement without FORMAT, VALUES or data.
    pub fn insert(
        &mut self,
        head: &[u8],
        format: &str,
        mut data: impl Read,
        params: &[(String, String)],
    ) -> Result<QueryResult, String> {
        let params = RawParams::of(params);
        // SAFETY: as in `query`; the stream is used by this thread alone, while
        // the connection is borrowed, and destroyed by the guard.
        let stream = unsafe {
            InsertStream {
                library: &self.library,
                raw: (self.library.insert)(
                    *self.raw,
                    head.as_ptr(),
                    head.len(),
                    format.as_ptr(),
                    format.len(),
                    params.names.as_ptr(),
                    params.name_lengths.as_ptr(),
                    params.values.as_ptr(),
                    params.value_lengths.as_ptr(),
                    params.count(),
                ),
            }
        };
        if let Some(message) = stream.error() {
            return Err(message);
        }
        let mut piece = vec![0; INSERT_PIECE_BYTES];
        loop {
            let length = match data.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The stream is dropped undone: nothing more of it is stored.
                Err(error) => {
                    let exception = error.get_ref().and_then(|inner| inner.downcast_ref::<Exception>());
                    return Err(exception.map_or_else(
                        || format!("Code: {}. DB::Exception: reading the data: {error}.", code::CANNOT_READ),
                        |exception| exception.message.clone(),
                    ));
                }
            };
            // SAFETY: the stream is open; the piece lives for the call, which copies it.
            let state = unsafe { (self.library.insert_append)(stream.raw, piece.as_ptr(), length) };
            if state != 0 {
                break; // A refusal is repeated, with its reason, by the result.
            }
        }
        // SAFETY: the stream is alive.
        let result = unsafe { (self.library.insert_done)(stream.raw) };
        QueryResult::check(&self.library, result)
    }
}

/// A running SELECT, which is cancelled when this is dropped before its end.
#[derive(Debug)]
pub struct ResultStream<'a> {
    connection: &'a mut Connection,
    handle: QueryResult,
    ended: bool,
}

impl ResultStream<'_> {
    /// Waits for the next chunk, a document of its own in the statement's format.
    pub fn next_chunk(&mut self) -> Result<Option<QueryResult>, String> {
        if self.ended {
            return Ok(None);
        }
        let library = &self.connection.library;
        // SAFETY: connection and handle are alive and belong together; `&mut self`
        // keeps one fetch at a time.
        let raw = unsafe { (library.stream_fetch)(*self.connection.raw, self.handle.raw) };
        let chunk = QueryResult::check(library, raw).inspect_err(|_| self.ended = true)?;
        self.ended = chunk.as_ref().is_empty();
        Ok(Some(chunk).filter(|_| !self.ended))
    }
}

impl Drop for ResultStream<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: as in `next_chunk`; the handle is destroyed after this.
            unsafe { (self.connection.library.stream_cancel)(*self.connection.raw, self.handle.raw) };
        }
    }
}

/// Destroys the stream on every path.
struct InsertStream<'a> {
    library: &'a Library,
    raw: RawInsert,
}

impl InsertStream<'_> {
    fn error(&self) -> Option<String> {
        // SAFETY: the stream is alive, and chdb.h promises it is never NULL; the
        // message lives as long as it.
        unsafe { message((self.library.insert_error)(self.raw)) }
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        unsafe { (self.library.insert_destroy)(self.raw) };
    }
}

/// Pointers and lengths of parameters, borrowed from them.
struct RawParams {
    names: Vec<*const u8>,
    name_lengths: Vec<usize>,
    values: Vec<*const u8>,
    value_lengths: Vec<usize>,
}

impl RawParams {
    fn of(params: &[(String, String)]) -> Self {
        Self {
            names: params.iter().map(|(name, _)| name.as_ptr()).collect(),
            name_lengths: params.iter().map(|(name, _)| name.len()).collect(),
            values: params.iter().map(|(_, value)| value.as_ptr()).collect(),
            value_lengths: params.iter().map(|(_, value)| value.len()).collect(),
        }
    }

    fn count(&self) -> usize {
        self.names.len()
    }
}

/// The text of a C string that may be NULL.
///
/// # Safety
/// Not NULL means NUL-terminated and alive during the call.
unsafe fn message(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the pointer came from chdb_connect and is closed once.
        unsafe { (self.library.close)(self.raw) };
    }
}

/// A result in the engine's own memory.
#[derive(Debug)]
pub struct QueryResult {
    library: Arc<Library>,
    raw: *mut RawResult,
}

// SAFETY: after the query has returned, nothing but this handle refers to the
// result, and it is only read.
unsafe impl Send for QueryResult {}
// SAFETY: the accessors only read.
unsafe impl Sync for QueryResult {}

impl QueryResult {
    /// What the query cost.
    pub fn summary(&self) -> Summary {
        let library = &self.library;
        // SAFETY: the result is alive until drop.
        unsafe {
            Summary {
                rows_read: (library.rows_read)(self.raw),
                bytes_read: (library.bytes_read)(self.raw),
                rows_written: (library.rows_written)(self.raw),
                bytes_written: (library.bytes_written)(self.raw),
            }
        }
    }

    /// Takes over what the engine answered; an error becomes its message.
    fn check(library: &Arc<Library>, raw: *mut RawResult) -> Result<Self, String> {
        if raw.is_null() {
            return Err("Code: 1002. DB::Exception: the engine gave no result. (UNKNOWN_EXCEPTION)".into());
        }
        let result = Self { library: Arc::clone(library), raw };
        // SAFETY: the result is alive; the message lives as long as it.
        match unsafe { message((library.error)(raw)) } {
            Some(message) => Err(message),
            None => Ok(result),
        }
    }
}

impl AsRef<[u8]> for QueryResult {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: buffer and length belong together and live until drop.
        unsafe {
            let buffer = (self.library.buffer)(self.raw);
            let length = (self.library.length)(self.raw);
            let (buffer, length) = if buffer.is_null() { (ptr::dangling(), 0) } else { (buffer, length) };
            std::slice::from_raw_parts(buffer, length)
        }
    }
}

impl Drop for QueryResult {
    fn drop(&mut self) {
        // SAFETY: destroyed once; no slice of it outlives self.
        unsafe { (self.library.destroy)(self.raw) };
    }
}
