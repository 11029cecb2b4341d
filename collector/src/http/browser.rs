//! What a browser sends because some page on the web says so is refused: it
//! reaches loopback addresses as its user does, and no token need be known.

use std::net::IpAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;

use super::refused;

/// Lets through only what programs and our own pages ask, and links to us.
///
/// `by_address` also refuses every name but `localhost` in `Host`: a page can let
/// its own name point to this machine and is then of the same origin.
pub fn protect(router: Router, by_address: bool) -> Router {
    router.layer(middleware::from_fn_with_state(by_address, check))
}

async fn check(State(by_address): State<bool>, request: Request, next: Next) -> Response {
    match refusal(request.method(), request.headers(), by_address) {
        None => next.run(request).await,
        Some(reason) => refused(request.uri(), StatusCode::FORBIDDEN, reason),
    }
}

/// Why a request is not answered, if it comes from a page that is not ours.
/// Programs that are no browsers send neither `Sec-Fetch-Site` nor `Origin`.
fn refusal(method: &Method, headers: &HeaderMap, by_address: bool) -> Option<String> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST);
    match (text(HeaderName::from_static("sec-fetch-site")), text(header::ORIGIN)) {
        (Some("same-origin" | "none"), _) | (None, None) => {}
        (None, Some(origin)) if origin.split_once("://").map(|(_, host)| host) == host => {}
        // A link that was followed: the page does not see the answer, the user does.
        _ if *method == Method::GET
            && text(HeaderName::from_static("sec-fetch-mode")) == Some("navigate") => {}
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

    /// Method and header lines, and whether the request is answered when any host will do, and by address.
    fn expect(method: Method, lines: &[(&'static str, &'static str)], any_host: bool, by_address: bool) {
        let headers = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let headers: HeaderMap = headers.collect();
        let answered = [false, true].map(|by_address| refusal(&method, &headers, by_address).is_none());
        assert_eq!(answered, [any_host, by_address], "{lines:?}");
    }

    #[test]
    fn programs_are_answered() {
        for host in ["127.0.0.1:20416", "localhost:20416", "LocalHost", "[::1]:20416", "[::1]", "10.0.0.1"] {
            expect(Method::POST, &[("host", host)], true, true);
        }
        expect(Method::POST, &[], true, true);
    }

    #[test]
    fn a_name_that_may_have_been_pointed_here_is_not() {
        for host in
            ["evil.example:20416", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80"]
        {
            expect(Method::POST, &[("host", host)], true, false);
            expect(Method::POST, &[("host", host), ("sec-fetch-site", "same-origin")], true, false);
        }
    }

    #[test]
    fn pages_of_others_are_not_answered() {
        let host = ("host", "127.0.0.1:20416");
        for origin in ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:20416"] {
            expect(Method::POST, &[host, ("origin", origin)], false, false);
        }
        for site in ["cross-site", "same-site", "?"] {
            expect(Method::POST, &[host, ("sec-fetch-site", site)], false, false);
        }
        expect(
            Method::GET,
            &[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
            false,
            false,
        );
    }

    #[test]
    fn links_to_us_may_stand_anywhere() {
        let link =
            [("host", "127.0.0.1:20416"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        expect(Method::GET, &link, true, true);
        // A form is no link.
        expect(Method::POST, &link, false, false);
        expect(Method::GET, &[("host", "evil.example"), link[1], link[2]], true, false);
    }

    #[test]
    fn what_the_user_typed_and_pages_of_ours_are_answered() {
        let host = ("host", "127.0.0.1:20416");
        expect(Method::POST, &[host, ("sec-fetch-site", "none")], true, true);
        expect(
            Method::POST,
            &[host, ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:20416")],
            true,
            true,
        );
        expect(Method::POST, &[host, ("origin", "http://127.0.0.1:20416")], true, true);
    }
}
