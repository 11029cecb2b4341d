//! What a request asks for: URL parameters, multipart fields, headers.

use axum::http::{HeaderMap, header};
use base64::Engine as _;

use crate::exception::{Exception, code};
use crate::wire::{ContentEncoding, Encoding};

/// The setting that carries a statement's mark: the engine makes up its own
/// query id, and this setting is for `remote()` only, so that it changes nothing.
pub const MARK_SETTING: &str = "chdb_client_name";

/// The largest multipart form that is taken: it is parsed in memory.
pub const MAX_FORM_BYTES: usize = 4 << 20;

/// The arguments of one request; the statement's text may also be in the body.
#[derive(Debug, Default, PartialEq)]
pub struct Arguments {
    /// `query`.
    pub query: Option<String>,
    /// `database`.
    pub database: Option<String>,
    /// `default_format`.
    pub default_format: Option<String>,
    /// `query_id`, else made up.
    pub query_id: Option<String>,
    /// `decompress=1`: the body is in ClickHouse's blocks.
    pub decompress: bool,
    /// `compress` and `Accept-Encoding`.
    pub encoding: Encoding,
    /// `wait_end_of_query=1`: an answer is made whole before it is sent.
    pub whole: bool,
    /// `client_protocol_version`, 0 if it has none.
    pub client_protocol_version: u64,
    /// `user` and `password`, from the URL, from `Authorization: Basic` or from ClickHouse's headers.
    pub user: Option<String>,
    /// See `user`.
    pub password: Option<String>,
    /// `param_NAME`.
    pub params: Vec<(String, String)>,
    /// Every other argument is a setting.
    pub settings: Vec<(String, String)>,
}

impl Arguments {
    /// From the URL's parameters and the headers.
    pub fn parse(pairs: Vec<(String, String)>, headers: &HeaderMap) -> Result<Self, Exception> {
        let mut arguments = Self::default();
        for (name, value) in pairs {
            arguments.add(name, value)?;
        }
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        if let Some((user, password)) = basic_credentials(headers) {
            arguments.user.get_or_insert(user);
            arguments.password.get_or_insert(password);
        }
        arguments.user = arguments.user.or_else(|| text("x-clickhouse-user"));
        arguments.password = arguments.password.or_else(|| text("x-clickhouse-key"));
        arguments.database = arguments.database.or_else(|| text("x-clickhouse-database"));
        arguments.default_format = arguments.default_format.or_else(|| text("x-clickhouse-format"));
        let setting = |name: &str| {
            let found = arguments.settings.iter().rfind(|(setting, _)| setting == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        arguments.encoding = match arguments.encoding {
            Encoding::Blocks if setting("network_compression_method").eq_ignore_ascii_case("zstd") => {
                Encoding::ZstdBlocks
            }
            Encoding::Plain if setting("enable_http_compression") != "0" => accepted(headers),
            encoding => encoding,
        };
        Ok(arguments)
    }

    /// One argument, from the URL or from a multipart field.
    pub fn add(&mut self, name: String, value: String) -> Result<(), Exception> {
        match name.as_str() {
            "query" => self.query = Some(value),
            "database" => self.database = Some(value).filter(|name| !name.is_empty()),
            "default_format" => self.default_format = Some(value),
            "query_id" => self.query_id = Some(value).filter(|id| !id.is_empty()),
            "decompress" => self.decompress = flag(&value),
            "compress" if flag(&value) => self.encoding = Encoding::Blocks,
            "wait_end_of_query" => self.whole = flag(&value),
            "client_protocol_version" => {
                self.client_protocol_version = value.parse().map_err(|_| {
                    Exception::new(code::BAD_ARGUMENTS, format_args!("client_protocol_version is {value}"))
                })?;
            }
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "compress" | "buffer_size" | "quota_key" | "stacktrace" => {}
            "session_id" | "session_timeout" | "session_check" | "role" => {
                return Err(Exception::new(
                    code::NOT_IMPLEMENTED,
                    format_args!("argument {name}: this server has no sessions and no roles"),
                ));
            }
            MARK_SETTING => {
                return Err(Exception::new(
                    code::BAD_ARGUMENTS,
                    format_args!("setting {name} is this server's own: the query's mark; use log_comment"),
                ));
            }
            _ => match name.strip_prefix("param_") {
                Some(param) => self.params.push((param.to_owned(), value)),
                None => self.settings.push((name, value)),
            },
        }
        Ok(())
    }
}

/// User and password of `Authorization: Basic`.
fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, credentials) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let text = base64::engine::general_purpose::STANDARD.decode(credentials.trim()).ok()?;
    let text = String::from_utf8(text).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The boundary, if the body is a multipart form.
pub fn multipart_boundary(headers: &HeaderMap) -> Option<&str> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let value = parameter.trim().strip_prefix("boundary=")?;
        Some(value.trim_matches('"'))
    })
}

/// Adds the fields of a multipart form; files (external tables) are refused.
pub fn add_multipart(body: &[u8], boundary: &str, arguments: &mut Arguments) -> Result<(), Exception> {
    if body.len() > MAX_FORM_BYTES {
        let text = "a multipart form over 4 MiB; send data to insert as the body, with the rest in the URL";
        return Err(Exception::new(code::TOO_LARGE, text));
    }
    let broken = |what: &str| Exception::new(code::BAD_ARGUMENTS, format_args!("multipart form: {what}"));
    let text = std::str::from_utf8(body).map_err(|_| broken("a field is not UTF-8"))?;
    let delimiter = format!("\r\n--{boundary}");
    let mut rest =
        text.strip_prefix(&delimiter[2..]).ok_or_else(|| broken("it does not begin with its boundary"))?;
    loop {
        if rest.starts_with("--") {
            return Ok(());
        }
        let (part, after) =
            rest.split_once(&delimiter).ok_or_else(|| broken("the closing boundary is missing"))?;
        let (head, value) = part
            .strip_prefix("\r\n")
            .and_then(|part| part.split_once("\r\n\r\n"))
            .ok_or_else(|| broken("a field without headers"))?;
        let quoted = |key: &str| Some(head.split_once(key)?.1.split_once('"')?.0);
        if quoted("filename=\"").is_some() {
            return Err(Exception::new(code::NOT_IMPLEMENTED, "external tables in a multipart form"));
        }
        let name = quoted(" name=\"").ok_or_else(|| broken("a field without a name"))?;
        arguments.add(name.to_owned(), value.to_owned())?;
        rest = after;
    }
}

/// What the client weighs highest of what there is; of equals the first of ours.
fn accepted(headers: &HeaderMap) -> Encoding {
    let mut best = (0.0, Encoding::Plain);
    let offers: Vec<(&str, f32)> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|offer| {
            let (name, weight) = offer.split_once(';').unwrap_or((offer, "q=1"));
            // A weight that is none asks for nothing.
            let weight = weight.trim().strip_prefix("q=").and_then(|q| q.parse().ok()).unwrap_or(0.0);
            (name.trim(), weight)
        })
        .collect();
    for encoding in ContentEncoding::ALL {
        let offer = offers.iter().find(|(name, _)| ContentEncoding::named(name) == Some(encoding));
        let any = offers.iter().find(|(name, _)| *name == "*");
        if let Some((_, weight)) = offer.or(any)
            && *weight > best.0
        {
            best = (*weight, Encoding::Content(encoding));
        }
    }
    best.1
}

fn flag(value: &str) -> bool {
    matches!(value, "1" | "true")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Fields that a form gives, as `name=value` lines, or the error's text.
    fn check(body: &str, expected: &str) {
        let mut arguments = Arguments::default();
        let outcome = add_multipart(body.as_bytes(), "B", &mut arguments);
        let shown = match outcome {
            Ok(()) => {
                let query = arguments.query.iter().map(|query| format!("query={query}"));
                let params = arguments.params.iter().map(|(name, value)| format!("{name}={value}"));
                query.chain(params).collect::<Vec<_>>().join(" ")
            }
            Err(exception) => exception.message,
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn multipart_forms() {
        let field = |name: &str, value: &str| {
            format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        check(
            &format!("{}{}--B--\r\n", field("query", "SELECT {a:String}"), field("param_a", "x\r\ny")),
            "query=SELECT {a:String} a=x\r\ny",
        );
        check("--B--\r\n", "");
        check(
            &field("query", "SELECT 1"),
            "Code: 36. DB::Exception: multipart form: the closing boundary is missing.",
        );
        check("", "Code: 36. DB::Exception: multipart form: it does not begin with its boundary.");
        check(
            "--B\r\nContent-Disposition: form-data; name=\"t\"; filename=\"t\"\r\n\r\n1\r\n--B--",
            "Code: 48. DB::Exception: external tables in a multipart form.",
        );
    }

    #[test]
    fn a_form_is_bounded() {
        let mut arguments = Arguments::default();
        let form = vec![b' '; MAX_FORM_BYTES + 1];
        assert_eq!(add_multipart(&form, "B", &mut arguments).unwrap_err().code, code::TOO_LARGE);
    }

    #[test]
    fn arguments_of_the_url_and_of_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, "br, LZ4".parse().unwrap());
        headers.insert("x-clickhouse-user", "u".parse().unwrap());
        let pairs = [("query", "SELECT 1"), ("max_threads", "1"), ("param_x", "7"), ("compress", "0")];
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let expected = Arguments {
            query: Some("SELECT 1".into()),
            encoding: Encoding::Content(ContentEncoding::Lz4),
            user: Some("u".into()),
            params: vec![("x".into(), "7".into())],
            settings: vec![("max_threads".into(), "1".into())],
            ..Arguments::default()
        };
        assert_eq!(Arguments::parse(pairs, &headers).unwrap(), expected);
    }

    #[test]
    fn the_encoding_that_is_weighed_highest() {
        let check = |offer: &str, expected: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, offer.parse().unwrap());
            let shown = match accepted(&headers) {
                Encoding::Content(encoding) => encoding.name(),
                _ => "plain",
            };
            assert_eq!(shown, expected, "{offer}");
        };
        check("", "plain");
        check("br, deflate", "plain");
        check("deflate, gzip, br, zstd", "zstd");
        check("gzip, zstd;q=0.5", "gzip");
        check("gzip;q=0, LZ4;q=0.1", "lz4");
        check("gzip;q=0", "plain");
        check("*", "zstd");
        check("zstd;q=0, *;q=0.1", "lz4");
        check("gzip;q=many", "plain");
    }
}
