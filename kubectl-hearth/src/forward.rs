//! A port on this machine alone that answers a browser with the user's rights.
//!
//! Whoever reaches the port would see what the user may see: every other user of this machine, and every page that
//! the browser has open. So all that is answered stands below a path that nobody can guess, a request must be for this
//! address (a name that was let point here is another), and a page of another site is refused even if it knows the path.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hearth_profile::write::markup::escape;
use serde::Deserialize;

use crate::surface::{Access, Place, Question, Surface, aggregated};

/// What of the API a page asks for.
const NAMES: [&str; 5] = ["flamegraph", "timeline", "diff", "apps", "tags"];
/// What is passed on of an answer.
const HEADERS: [&str; 6] = [
    "content-type",
    "content-disposition",
    "content-security-policy",
    "x-content-type-options",
    "hearth-note",
    "hearth-quality",
];
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str =
    "body { font: 16px/1.5 system-ui, sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3em .6em; border-bottom: 1px solid #ccc; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
";

/// What is answered, and to whom.
pub(crate) struct Forward {
    pub(crate) surface: Surface,
    pub(crate) place: Place,
    /// The secret part of the path.
    pub(crate) secret: String,
    pub(crate) address: SocketAddr,
}

/// An answer of `apps`.
#[derive(Deserialize)]
struct Apps {
    apps: Vec<App>,
    notes: Vec<String>,
}

#[derive(Deserialize)]
struct App {
    name: String,
    samples: u64,
    value: i64,
}

/// Answers requests.
pub(crate) fn router(forward: Forward) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(forward))
}

async fn answer(State(forward): State<Arc<Forward>>, request: Request) -> Response {
    let path = request.uri().path();
    let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(forward.secret.as_str()));
    let allowed = is_for(request.headers(), forward.address) && !is_of_another_site(request.headers());
    let mut response = match rest.and_then(|rest| rest.strip_prefix('/')) {
        Some(_) if !allowed => (StatusCode::FORBIDDEN, "this address is for you alone\n").into_response(),
        Some(_) if request.method() != Method::GET => {
            (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")], "only GET\n").into_response()
        }
        Some("") => index(&forward).await,
        Some(rest) => match forward.path(rest, request.uri().query().unwrap_or_default()) {
            Some(path) => passed(&forward, &path).await,
            None => nothing(),
        },
        None => nothing(),
    };
    let headers = response.headers_mut();
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn nothing() -> Response {
    (StatusCode::NOT_FOUND, "nothing here: the address is printed by kubectl hearth open\n").into_response()
}

/// `Host` is this address, not a name that somebody lets point to it.
fn is_for(headers: &HeaderMap, address: SocketAddr) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let local = [address.to_string(), format!("localhost:{}", address.port())];
    hosts.next().is_none() && local.iter().any(|own| own.eq_ignore_ascii_case(host))
}

/// Browsers say which page makes them ask: none, if the user typed the address.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    site.is_some_and(|site| site != b"same-origin" && site != b"none")
}

impl Forward {
    /// Where the answer to a path below the secret is.
    fn path(&self, rest: &str, query: &str) -> Option<String> {
        let own = rest.strip_prefix("api/v1/")?;
        let joined =
            |base: String, query: &str| if query.is_empty() { base } else { format!("{base}?{query}") };
        let below_api = |name: &str| match self.surface.access {
            Access::Kubernetes => aggregated(&self.place, name),
            Access::Server => format!("/api/v1/{name}"),
        };
        if let Some(tag) = own.strip_prefix("tags/").and_then(|tag| tag.strip_suffix("/values")) {
            let fits = |c: char| c.is_ascii_alphanumeric() || "_.-%".contains(c);
            if tag.is_empty() || !tag.chars().all(fits) {
                return None;
            }
            return Some(match self.surface.access {
                Access::Kubernetes if query.is_empty() => format!("{}?tag={tag}", below_api("values")),
                Access::Kubernetes => format!("{}?tag={tag}&{query}", below_api("values")),
                Access::Server => joined(below_api(own), query),
            });
        }
        let name = NAMES.into_iter().find(|name| *name == own)?;
        Some(joined(below_api(name), query))
    }
}

async fn passed(forward: &Forward, path: &str) -> Response {
    match forward.surface.get(path).await {
        Ok((status, headers, body)) => {
            let mut response = (status, Body::from(body)).into_response();
            for name in HEADERS.map(HeaderName::from_static) {
                response.headers_mut().remove(&name);
                if let Some(value) = headers.get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            response
        }
        Err(failure) => (StatusCode::BAD_GATEWAY, format!("{failure}\n")).into_response(),
    }
}

/// The hottest apps, with links.
async fn index(forward: &Forward) -> Response {
    let answer = forward.surface.read::<Apps>(&Question::new(&forward.place, "apps")).await;
    let (status, body) = match answer {
        Ok(apps) => (StatusCode::OK, table(&apps, &forward.place)),
        Err(failure) => (StatusCode::BAD_GATEWAY, format!("<p>{}</p>", escape(&failure.to_string()))),
    };
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Hearth</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n\
         <body><h1>Hearth</h1>\n{body}</body></html>\n"
    );
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (status, headers, page).into_response()
}

fn table(Apps { apps, notes }: &Apps, place: &Place) -> String {
    let mut body = match place {
        Place::Namespace(namespace) => {
            format!("<p>The namespace {}, the last 15 minutes.</p>\n", escape(namespace))
        }
        Place::Cluster => format!(
            "<p>The whole cluster, the last 15 minutes. <a href=\"{}\">Total</a>: every process by thread.</p>\n",
            link("Total", "html")
        ),
    };
    if !apps.is_empty() {
        body += "<table><tr><th>App</th><th class=\"number\">CPU seconds</th><th class=\"number\">Samples</th>\
                 <th>Also as</th></tr>\n";
        for App { name, samples, value } in apps {
            let also = ["svg", "pprof", "speedscope", "folded"]
                .map(|format| format!("<a href=\"{}\">{format}</a>", link(name, format)));
            body += &format!(
                "<tr><td><a href=\"{}\">{}</a></td><td class=\"number\">{:.2}</td>\
                 <td class=\"number\">{samples}</td><td>{}</td></tr>\n",
                link(name, "html"),
                escape(name),
                *value as f64 / 1e6,
                also.join(" ")
            );
        }
        body += "</table>\n";
    }
    body + &notes.iter().map(|note| format!("<p>{}</p>\n", escape(note))).collect::<String>()
}

/// Below the secret, as the page is.
fn link(app: &str, format: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("app_service", app).append_pair("format", format);
    format!("api/v1/flamegraph?{}", escape(&query.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_text_and_in_links() {
        let apps = Apps {
            apps: vec![App { name: "<b>\"x'&y".to_owned(), samples: 3, value: 1_500_000 }],
            notes: vec!["<i>".to_owned()],
        };
        let page = table(&apps, &Place::Cluster);
        let expected = "app_service=%3Cb%3E%22x%27%26y&amp;format=html\">&lt;b&gt;&quot;x&#39;&amp;y</a>";
        assert!(
            page.contains(expected) && page.contains("1.50</td>") && page.contains("&lt;i&gt;"),
            "{page}"
        );
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn a_name_that_was_let_point_here_is_refused() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        assert!(is_for(&headers(&[("host", "127.0.0.1:80")]), address));
        assert!(is_for(&headers(&[("host", "localhost:80")]), address));
        for host in ["evil.example:80", "127.0.0.1:81", "127.0.0.1", ""] {
            assert!(!is_for(&headers(&[("host", host)]), address), "{host}");
        }
        assert!(!is_for(&HeaderMap::new(), address));
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        for (site, refused) in
            [("same-origin", false), ("none", false), ("cross-site", true), ("same-site", true)]
        {
            assert_eq!(is_of_another_site(&headers(&[("sec-fetch-site", site)])), refused, "{site}");
        }
        assert!(!is_of_another_site(&HeaderMap::new()));
    }
}
