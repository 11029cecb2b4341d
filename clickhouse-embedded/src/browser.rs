//! What a browser sends because some page on the web says so is refused: it
//! reaches loopback addresses as its user does, and no password need be known.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, header};

/// Why a request is not answered, if it comes from a page that is not ours.
/// Programs that are no browsers send neither `Sec-Fetch-Site` nor `Origin`.
///
/// `by_address` also refuses every name but `localhost` in `Host`: a page can let
/// its own name point to this machine and is then of the same origin.
pub fn refusal(headers: &HeaderMap, by_address: bool) -> Option<String> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST);
    match (text(HeaderName::from_static("sec-fetch-site")), text(header::ORIGIN)) {
        (Some("same-origin" | "none"), _) | (None, None) => {}
        (None, Some(origin)) if origin.split_once("://").map(|(_, host)| host) == host => {}
        (_, origin) => {
            let page = origin.unwrap_or("another site");
            return Some(format!("a page of {page} made the browser send this"));
        }
    }
    let host = host.filter(|host| by_address && !is_address(host))?;
    Some(format!("Host is {host}: use localhost, or the address itself"))
}

fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// Header lines, and whether the request is answered when any host will do, and by address.
    fn check(lines: &[(&'static str, &'static str)], any_host: bool, by_address: bool) {
        let headers = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let headers: HeaderMap = headers.collect();
        let answered = [false, true].map(|by_address| refusal(&headers, by_address).is_none());
        assert_eq!(answered, [any_host, by_address], "{lines:?}");
    }

    #[test]
    fn programs_are_answered() {
        for host in ["127.0.0.1:8123", "localhost:8123", "LocalHost", "[::1]:8123", "[::1]", "10.0.0.1"] {
            check(&[("host", host)], true, true);
        }
        check(&[], true, true);
    }

    #[test]
    fn a_name_that_may_have_been_pointed_here_is_not() {
        for host in
            ["evil.example:8123", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80"]
        {
            check(&[("host", host)], true, false);
            check(&[("host", host), ("sec-fetch-site", "same-origin")], true, false);
        }
    }

    #[test]
    fn pages_of_others_are_not_answered() {
        let host = ("host", "127.0.0.1:8123");
        for origin in ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:8123"] {
            check(&[host, ("origin", origin)], false, false);
        }
        for site in ["cross-site", "same-site", "?"] {
            check(&[host, ("sec-fetch-site", site)], false, false);
        }
    }

    #[test]
    fn what_the_user_typed_and_pages_of_ours_are_answered() {
        let host = ("host", "127.0.0.1:8123");
        check(&[host, ("sec-fetch-site", "none")], true, true);
        check(&[host, ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8123")], true, true);
        check(&[host, ("origin", "http://127.0.0.1:8123")], true, true);
    }
}
