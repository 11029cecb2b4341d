//! SQL from names and texts of others.

/// What gives a session its settings.
pub(crate) fn set_statement(settings: &[(String, String)]) -> String {
    let pairs: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("{} = {}", quoted(name, '`'), quoted(value, '\'')))
        .collect();
    format!("SET {}", pairs.join(", "))
}

/// A string literal or quoted identifier of ClickHouse's SQL.
pub(crate) fn quoted(text: &str, quote: char) -> String {
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
