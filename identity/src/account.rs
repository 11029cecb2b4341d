//! The name of a service account, as flags have it.

use std::fmt;
use std::str::FromStr;

/// A service account: `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    namespace: String,
    name: String,
}

/// A text that names no service account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a service account: write NAMESPACE/NAME, such as hearth/hearth-node-agent")]
pub struct NotAnAccount;

impl Account {
    /// The user that the API server takes its tokens for.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl FromStr for Account {
    type Err = NotAnAccount;

    fn from_str(text: &str) -> Result<Self, NotAnAccount> {
        let (namespace, name) = text.split_once('/').ok_or(NotAnAccount)?;
        // A namespace is a DNS label, an account a DNS subdomain.
        let dns = |part: &str, dots: bool, most: usize| {
            let allowed =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (dots && c == '.');
            (1..=most).contains(&part.len()) && part.chars().all(allowed)
        };
        if dns(namespace, false, 63) && dns(name, true, 253) {
            Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
        } else {
            Err(NotAnAccount)
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let user = text.parse::<Account>().map_or_else(|error| error.to_string(), |account| account.user());
        assert!(user.starts_with(expected), "{text}: {user}");
    }

    #[test]
    fn an_account_is_a_namespace_and_a_name() {
        check("hearth/hearth-node-agent", "system:serviceaccount:hearth:hearth-node-agent");
        check("a/b.c", "system:serviceaccount:a:b.c");
        for text in ["", "hearth", "/", "a/", "/b", "a/b/c", "a:b/c", "A/b", "a.b/c", "a/b c"] {
            check(text, "is not a service account: write NAMESPACE/NAME");
        }
    }
}
