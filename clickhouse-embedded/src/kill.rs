//! Stops the engine in the midst of a statement, for the tests that kill it there.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use hearth_kill_points::Point;

/// How far into a statement the stop may be: a small INSERT takes about as long on an idle machine.
const DEPTH_MICROS: u64 = 3000;
/// On a busy one it takes longer: at times the depth is doubled, less often than so.
const DOUBLINGS: u64 = 4;
/// A statement's first words are within so many bytes.
const HEAD_BYTES: usize = 256;

/// To be called right before the engine is given a statement. Unless a point in
/// statements like this one is wanted, it costs one load.
pub(crate) fn stop_in_the_midst_of(sql: &[u8]) {
    let Some(point) = Point::wanted() else { return };
    if point_of(sql) != Some(point) {
        return;
    }
    let random = RandomState::new();
    let micros = (random.hash_one(0) % DEPTH_MICROS) << (random.hash_one(1) % DOUBLINGS);
    // Another thread: the statement goes on meanwhile, and the stop freezes both.
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_micros(micros));
        point.reached();
    });
}

/// The point that lies within a statement.
fn point_of(sql: &[u8]) -> Option<Point> {
    let head = String::from_utf8_lossy(&sql[..sql.len().min(HEAD_BYTES)]);
    let mut words =
        head.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    match words.next()?.to_ascii_uppercase().as_str() {
        "INSERT" => {
            let table = words.skip(1).find(|word| *word != "profile")?;
            (table == "in_process_local").then_some(Point::StoreDuringInsert)
        }
        "ALTER" => {
            let mut words = words.skip_while(|word| !word.eq_ignore_ascii_case("REPLACE"));
            let swaps = words.nth(1)?.eq_ignore_ascii_case("PARTITION");
            swaps.then_some(Point::StoreDuringReplacePartition)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_change_rows_have_a_point() {
        let check = |sql: &str, expected| assert_eq!(point_of(sql.as_bytes()), expected, "{sql}");
        let (insert, replace) = (Some(Point::StoreDuringInsert), Some(Point::StoreDuringReplacePartition));
        check("INSERT INTO in_process_local(time,batch) FORMAT RowBinary\n\u{0}", insert);
        check("insert into `profile`.`in_process_local` VALUES (1)", insert);
        check("INSERT INTO stacks(id) FORMAT RowBinary\nin_process_local", None);
        check("INSERT INTO in_process_local_new SELECT * FROM in_process_local", None);
        check("ALTER TABLE in_process_1m REPLACE PARTITION '2026-01-01 00:00:00' FROM new", replace);
        check("ALTER TABLE in_process_1m DROP PARTITION 'x'", None);
        check("SELECT 'REPLACE PARTITION'", None);
        check("", None);
    }
}
