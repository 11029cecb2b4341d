//! How one statement is handed to the engine: streamed, with its data apart, or whole.

use std::io::Read;

use crate::exception::{Exception, code};
use crate::ffi::{Connection, QueryResult};
use crate::format::Shape;
use crate::insert::{self, Kind, OneStatement};
use crate::output::{Outcome, Output, Stop};
use crate::spool::{MEMORY_BYTES, Spool};

/// Sends a result chunk by chunk, as one document.
pub(crate) fn stream(
    connection: &mut Connection,
    sql: &[u8],
    format: &str,
    params: &[(String, String)],
    shape: Shape,
    output: &mut Output,
    outcome: &mut Outcome,
) -> Result<(), Stop> {
    let mut chunks = connection.stream(sql, format, params).map_err(Exception::from_engine)?;
    let mut is_first = true;
    while let Some(chunk) = chunks.next_chunk().map_err(Exception::from_engine)? {
        outcome.summary.add(chunk.summary());
        let skipped = match shape {
            Shape::Header(header) if !is_first => header.length(chunk.as_ref()).ok_or_else(|| {
                Exception::new(code::UNKNOWN_EXCEPTION, "a part of the result has no header")
            })?,
            _ => 0,
        };
        is_first = false;
        outcome.result_bytes += (chunk.as_ref().len() - skipped) as u64;
        output.send(&chunk.as_ref()[skipped..])?;
    }
    Ok(())
}

/// Runs a statement to its end.
pub(crate) fn execute(
    connection: &mut Connection,
    text: Spool,
    format: &str,
    params: &[(String, String)],
) -> Result<QueryResult, Exception> {
    let read_failed = |error| Exception::new(code::CANNOT_READ, format_args!("spooled request: {error}"));
    match insert::classify(text.head()) {
        Kind::Insert(insert)
            // The stream interface does not know parameters within VALUES.
            if (params.is_empty() || insert.format != "Values")
                // What is in the file begins with data.
                && (text.is_in_memory() || !insert.data.is_empty()) =>
        {
            let (head, data_format) = (insert.head.to_vec(), insert.format.to_owned());
            let data = text.head().len() - insert.data.len();
            let data = text.into_reader(data).map_err(read_failed)?;
            insert_data(connection, &head, &data_format, data, params)
        }
        Kind::InsertFromInput => Err(Exception::new(
            code::NOT_IMPLEMENTED,
            "INSERT … SELECT … FROM input(…): insert the data as it is",
        )),
        Kind::Plain | Kind::Insert(_) if text.is_in_memory() => {
            refuse_several(text.head())?;
            connection.query(text.head(), format, params).map_err(Exception::from_engine)
        }
        Kind::Plain | Kind::Insert(_) => Err(Exception::new(
            code::TOO_LARGE,
            format_args!(
                "a statement is over {MEMORY_BYTES} bytes: only what it inserts may be longer, \
                 and not VALUES with param_…; put the values into a table, or send them in parts"
            ),
        )),
    }
}

fn insert_data(
    connection: &mut Connection,
    head: &[u8],
    format: &str,
    data: impl Read,
    params: &[(String, String)],
) -> Result<QueryResult, Exception> {
    refuse_several(head)?;
    if format.eq_ignore_ascii_case("Values") {
        connection.insert(head, format, OneStatement::new(data), params)
    } else {
        connection.insert(head, format, data, params)
    }
    .map_err(Exception::from_engine)
}

/// The engine would run one after the other, as `clickhouse-client` does.
fn refuse_several(sql: &[u8]) -> Result<(), Exception> {
    if insert::is_several(sql) { Err(insert::several_statements()) } else { Ok(()) }
}
