//! Filters of questions.
#![no_main]

use hearth_collector::query::filter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match filter::parse(text) {
        Ok(None) => assert!(text.chars().all(char::is_whitespace)),
        Ok(Some(expr)) => {
            assert!(!expr.tags().is_empty());
            for write in [filter::Expr::sql, filter::Expr::sql_of_total] {
                let mut values = Vec::new();
                let sql = write(&expr, &mut values);
                assert_eq!(sql.matches('?').count(), values.len(), "each value is bound");
                // Quotes are the table's own: they close, and nothing is protected in them.
                assert!(sql.matches('\'').count() % 2 == 0 && !sql.contains(['\\', '"']), "{sql}");
                // What a filter costs is bounded: ClickHouse takes statements up to 4 MiB.
                assert!(sql.len() < 1 << 20);
            }
        }
        Err(error) => assert!((1..=text.chars().count() + 1).contains(&error.position)),
    }
});
