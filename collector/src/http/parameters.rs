//! The query part of an address, checked: a misspelt parameter must not be
//! ignored, as its absence would change the answer.

use crate::query::request::Invalid;

/// Named values; every name is known and stands once.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    /// Splits and decodes `query`.
    ///
    /// # Errors
    /// If a name is not in `known` or comes twice, or something is not UTF-8.
    pub(super) fn parse(query: &str, known: &[&'static str]) -> Result<Self, Invalid> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).unwrap_or_default();
            let Some(&name) = known.iter().find(|k| **k == name) else {
                let name: String = name.chars().take(64).collect();
                let remedy = match known {
                    [] => "there are none here".to_owned(),
                    known => format!("use {}", known.join(", ")),
                };
                return Err(Invalid::new("query", format!("has an unknown parameter {name:?}: {remedy}")));
            };
            if found.iter().any(|(n, _)| *n == name) {
                return Err(Invalid::new(name, "is given twice: give it once"));
            }
            let value = decode(value).ok_or_else(|| Invalid::new(name, "is not percent-encoded UTF-8"))?;
            found.push((name, value));
        }
        Ok(Self(found))
    }

    /// The value of a parameter, if it was given.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(n, _)| *n == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A whole number, if it was given: `what` says of what, as in "give Unix seconds".
    pub(super) fn integer(&mut self, name: &'static str, what: &str) -> Result<Option<i64>, Invalid> {
        let Some(text) = self.take(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let text: String = text.chars().take(64).collect();
            Invalid::new(name, format!("is {text:?}, not an integer: give {what}"))
        })
    }
}

/// The opposite of [`decode`], for links: everything but letters, digits and `-._~`.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// `+` is a space, `%41` an A, as forms write it; `None` if it is no UTF-8 or an escape is broken.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes() {
        for text in ["", "redis-server", "a b&c=d%+/?#", "größe \u{1f525}", "\0\n"] {
            assert_eq!(decode(&encode(text)).unwrap(), text);
        }
        assert_eq!(encode("a b&\"<"), "a%20b%26%22%3C");
    }

    #[test]
    fn broken_escapes_are_refused() {
        for text in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    fn check_refused(query: &str, expected: &str) {
        assert_eq!(Parameters::parse(query, &["from", "until"]).unwrap_err().to_string(), expected);
    }

    #[test]
    fn names_are_known_and_stand_once() {
        check_refused("form=1", "query has an unknown parameter \"form\": use from, until");
        check_refused("from=1&from=2", "from is given twice: give it once");
        check_refused("from=%ff", "from is not percent-encoded UTF-8");
        let mut parameters = Parameters::parse("&until=&from=5", &["from", "until"]).unwrap();
        assert_eq!(parameters.integer("from", "Unix seconds").unwrap(), Some(5));
        assert_eq!(parameters.integer("from", "Unix seconds").unwrap(), None);
        assert_eq!(parameters.take("until").unwrap(), "");
    }
}
