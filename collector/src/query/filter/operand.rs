//! What a tag is compared with, read as the tag's kind asks.

use std::net::{IpAddr, Ipv6Addr};

use super::lexer::Token;
use super::tags::{Kind, Tag};
use crate::query::statement::Value;
use crate::query::time;

/// The right side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// One value.
    Value(Value),
    /// All addresses from the first to the last; one address is a network of itself. IPv4 is mapped into IPv6.
    Network(Ipv6Addr, Ipv6Addr),
}

/// The operand that `token` is for `tag`, or what was expected instead.
pub(super) fn operand(tag: &Tag, token: &Token) -> Result<Operand, String> {
    let name = tag.name;
    let value = match (tag.kind, token) {
        (Kind::Text | Kind::Map, Token::Text(text)) => Value::Text(text.clone()),
        (Kind::Text | Kind::Map, _) => return Err(format!("text in quotes, as {name} is text")),
        (Kind::Number, Token::Number(number)) => Value::Int(*number),
        (Kind::Number, _) => return Err(format!("a number, as {name} is one")),
        (Kind::Enum(_), Token::Number(number)) => Value::Int(*number),
        (Kind::Enum(names), token) => {
            let number = match token {
                Token::Text(text) => names.iter().find(|(_, n)| n.eq_ignore_ascii_case(text)),
                _ => None,
            };
            let (number, _) = number.ok_or_else(|| {
                let names: Vec<_> = names.iter().map(|(_, name)| format!("'{name}'")).collect();
                format!("a number or one of {}", names.join(", "))
            })?;
            Value::Int(*number)
        }
        (Kind::Time { per_second }, token) => {
            let units = match token {
                Token::Number(seconds) => seconds.checked_mul(per_second),
                Token::Text(text) => time::parse_utc(text, per_second),
                _ => None,
            };
            let fraction = if per_second == 1 { "" } else { "[.ffffff]" };
            Value::Int(units.ok_or_else(|| format!("Unix seconds or 'YYYY-MM-DD hh:mm:ss{fraction}' (UTC)"))?)
        }
        (Kind::Ip, token) => {
            let network = match token {
                Token::Text(text) => network(text),
                _ => None,
            };
            let (first, last) =
                network.ok_or("an address such as '10.1.2.3' or a network such as '10.0.0.0/8'")?;
            return Ok(Operand::Network(first, last));
        }
    };
    Ok(Operand::Value(value))
}

/// First and last address of `10.1.2.3` or `10.0.0.0/8`; bits behind the prefix are ignored, as in DeepFlow.
fn network(text: &str) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let (address, unmapped_bits) = match address.parse().ok()? {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96),
        IpAddr::V6(v6) => (v6, 0),
    };
    let host_bits = match prefix {
        None => 0,
        // Digits only: parse() takes a sign too.
        Some(prefix) if !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit()) => {
            128_u32.checked_sub(prefix.parse::<u32>().ok()?.checked_add(unmapped_bits)?)?
        }
        Some(_) => return None,
    };
    let host = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    Some(((address.to_bits() & !host).into(), (address.to_bits() | host).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let range = network(text).map(|(first, last)| format!("{first} {last}"));
        assert_eq!(range.as_deref().unwrap_or("none"), expected, "{text}");
    }

    #[test]
    fn networks_are_ranges_of_addresses() {
        check("10.1.2.3", "::ffff:10.1.2.3 ::ffff:10.1.2.3");
        check("10.1.2.3/8", "::ffff:10.0.0.0 ::ffff:10.255.255.255");
        check("0.0.0.0/0", "::ffff:0.0.0.0 ::ffff:255.255.255.255");
        check("10.1.2.3/32", "::ffff:10.1.2.3 ::ffff:10.1.2.3");
        check("2001:db8::1/32", "2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff");
        check("::/0", ":: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        check("::1/128", "::1 ::1");
        for text in
            ["", "/", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/-1", "a/8"]
        {
            check(text, "none");
        }
    }
}
