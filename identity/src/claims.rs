//! What a JWT says of itself. Nothing here is verified: only the API server's word on the whole token makes it true.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use crate::reviewer::MAX_TOKEN_BYTES;

/// Further than any token lasts, and near enough to be added to an [`Instant`].
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Base64 of a JWT has no padding; whoever added it meant the same.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Claims that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    /// When it ends, in Unix seconds.
    pub(crate) expires: Option<u64>,
    /// Whose it is.
    pub(crate) subject: Option<String>,
    /// Whom it is for.
    pub(crate) audiences: Vec<String>,
}

impl Claims {
    /// `None`: it is no JWT, or longer than any.
    pub(crate) fn of(token: &str) -> Option<Self> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let mut parts = token.split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let claims: Value = serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()?;
        let claims = claims.as_object()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let audiences = match claims.get("aud") {
            Some(Value::Array(audiences)) => audiences.iter().filter_map(text).collect(),
            Some(audience) => text(audience).into_iter().collect(),
            None => Vec::new(),
        };
        let expires = claims.get("exp");
        Some(Self {
            // Of a fraction of a second nothing is left.
            expires: expires.and_then(|exp| exp.as_u64().or_else(|| exp.as_f64().map(|exp| exp as u64))),
            subject: claims.get("sub").and_then(text),
            audiences,
        })
    }

    /// When it ends, by the clock of this process; in the past: now.
    pub(crate) fn ends(&self) -> Option<Instant> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_secs(self.expires?).saturating_sub(since_1970);
        Some(Instant::now() + left.min(FAR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &str, expected: &str) {
        let token = format!("e30.{}.sig", BASE64.encode(payload));
        let claims = Claims::of(&token).map_or_else(
            || "none".to_owned(),
            |Claims { expires, subject, audiences }| format!("{expires:?} {subject:?} {audiences:?}"),
        );
        assert_eq!(claims, expected, "{payload}");
    }

    #[test]
    fn a_payload_is_read_whatever_it_has() {
        check(
            r#"{"exp": 7, "sub": "system:serviceaccount:a:b", "aud": ["x", "y"]}"#,
            r#"Some(7) Some("system:serviceaccount:a:b") ["x", "y"]"#,
        );
        check(r#"{"exp": 7.9, "aud": "x"}"#, r#"Some(7) None ["x"]"#);
        check(r#"{"exp": -1, "sub": 1, "aud": [1]}"#, "Some(0) None []");
        check(r#"{"exp": 1e300}"#, &format!("Some({}) None []", u64::MAX));
        check("{}", "None None []");
        for other in ["", "[]", "7", "{", &"[".repeat(5000)] {
            check(other, "none");
        }
    }

    #[test]
    fn what_is_no_jwt_has_no_claims() {
        for token in ["", "a", "a.b", "a.b.c", "e30.e30.e30.e30", "e30.%.e30"] {
            assert_eq!(Claims::of(token), None, "{token}");
        }
    }

    #[tokio::test]
    async fn an_end_that_is_past_or_beyond_all_clocks_is_an_instant_too() {
        let ends = |expires| Claims { expires, subject: None, audiences: Vec::new() }.ends();
        assert!(ends(Some(1)).is_some_and(|end| end <= Instant::now()));
        assert!(ends(Some(u64::MAX)).is_some_and(|end| end > Instant::now() + FAR / 2));
        assert_eq!(ends(None), None);
    }
}
