//! `GET /`: the hottest apps of the last minutes, with links. No script, and
//! every name escaped: process names are chosen by whoever runs the process.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hearth_profile::write::markup::escape;

use super::api::DEFAULT_RANGE_SECONDS;
use super::parameters::encode;
use super::{QueryState, Reader, now, reply};
use crate::query::store::App;
use crate::query::{QueryError, TimeRange};

const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
/// Rows of the table.
const SHOWN: usize = 50;
const STYLE: &str =
    "body { font: 16px/1.5 system-ui, sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3em .6em; border-bottom: 1px solid #ccc; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
";

/// The page.
pub async fn index(State(state): State<QueryState>, reader: Reader) -> Response {
    let (status, retry, body) = match hottest(&state, &reader).await {
        Ok((apps, notes)) => (StatusCode::OK, HeaderMap::new(), table(&apps, &notes)),
        Err(error) => {
            let (status, retry) = reply::status_of(&error);
            (status, retry, format!("<p>{}</p>", escape(&error.advice())))
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (status, retry, headers, document(&body)).into_response()
}

/// Its style sheet.
pub async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

async fn hottest(state: &QueryState, reader: &Reader) -> Result<(Vec<App>, Vec<String>), QueryError> {
    let now = u32::try_from(now()).unwrap_or(u32::MAX);
    let from = now.saturating_sub(DEFAULT_RANGE_SECONDS as u32);
    let _permit = state.permit(reader).await?;
    // From the start of a window, as nobody asked for another.
    let range = TimeRange { from, until: now }.aligned(state.store.window_seconds());
    state.store.apps(&reader.scope, range).await
}

fn document(body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Hearth</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <link rel=\"stylesheet\" href=\"/style.css\"></head>\n<body><h1>Hearth</h1>\n\
         <p><a href=\"{}\">Total</a>: every process of every node, by thread.</p>\n{body}</body></html>\n",
        link("Total", "html")
    )
}

fn table(apps: &[App], notes: &[String]) -> String {
    let minutes = DEFAULT_RANGE_SECONDS / 60;
    if apps.is_empty() {
        return format!(
            "<p>No app was profiled in the last {minutes} minutes: no policy matches a running process, \
             or no agent reaches this collector.</p><p>{}</p>",
            escape(&notes.join("; "))
        );
    }
    // What must be known of the values stands with the answers that the links lead to.
    let rows: String = apps
        .iter()
        .take(SHOWN)
        .map(|App { app_service, samples, value, rolled_up: _ }| {
            format!(
                "<tr><td><a href=\"{}\">{}</a></td><td class=\"number\">{:.2}</td>\
                 <td class=\"number\">{samples}</td><td>{}</td></tr>\n",
                link(app_service, "html"),
                escape(app_service),
                *value as f64 / 1e6,
                other_formats(app_service),
            )
        })
        .collect();
    let more = match apps.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("<p>{more} more in <a href=\"/api/v1/apps\">the list of all</a>.</p>"),
    };
    format!(
        "<h2>Hottest in the last {minutes} minutes</h2>\n<table><tr><th>App</th>\
         <th class=\"number\">CPU seconds</th><th class=\"number\">Samples</th><th>Also as</th></tr>\n{rows}</table>{more}"
    )
}

fn other_formats(app_service: &str) -> String {
    let link = |format| format!("<a href=\"{}\">{format}</a>", link(app_service, format));
    ["svg", "pprof", "speedscope", "folded"].map(link).join(" ")
}

fn link(app_service: &str, format: &str) -> String {
    format!("/api/v1/flamegraph?app_service={}&amp;format={format}", encode(app_service))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> App {
        App { app_service: name.to_owned(), samples: 3, value: 1_500_000, rolled_up: 0 }
    }

    #[test]
    fn names_are_escaped_in_text_and_in_links() {
        let page = table(&[app("<b>\"x'&y")], &[]);
        assert!(
            page.contains("app_service=%3Cb%3E%22x%27%26y&amp;format=html\">&lt;b&gt;&quot;x&#39;&amp;y</a>")
        );
        assert!(page.contains("1.50</td>"));
    }

    #[test]
    fn an_empty_list_says_why() {
        let page = table(&[], &["lost <all>".to_owned(), "of it".to_owned()]);
        assert!(page.starts_with("<p>No app was profiled in the last 15 minutes:"));
        assert!(page.ends_with("<p>lost &lt;all&gt;; of it</p>"));
    }

    #[test]
    fn what_is_not_shown_is_counted() {
        let apps = vec![app("x"); SHOWN + 2];
        assert!(table(&apps, &[]).contains("<p>2 more in"));
        assert!(!table(&apps[..SHOWN], &[]).contains("more in"));
    }
}
