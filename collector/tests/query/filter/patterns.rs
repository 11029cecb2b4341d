//! What the parser takes as a regular expression, RE2 takes too: also the longest, the deepest and the most repeated.

use serde_json::json;

use super::fixture::{APP, DAY};
use crate::common::Collector;

#[tokio::test]
async fn the_engine_takes_every_pattern_that_is_taken() {
    let collector = Collector::start().await;
    let heavy = [
        r"[\pL\pN]{9}".to_owned(),
        ".{1000}".to_owned(),
        "(?i)é{1000}".to_owned(),
        "[^a]{800}".to_owned(),
        "a".repeat(1024),
        "(".repeat(50) + &")".repeat(50),
        "x|".repeat(512),
    ];
    let patterns = [
        "",
        "^redis-[0-9]+$",
        "a|b|",
        "(a)(?:b)(?i:c)",
        "(?i)x(?-i)y",
        "a*b+c?d{2}e{2,}f{2,4}",
        "a*?b+?c??d{2}?",
        r"\d\D\w\W\s\S\b\B\A\z",
        r"[a-z\d_.\-][^\]x]",
        "[]a]",
        "[[:alpha:]_]",
        "[^[:^digit:]]",
        r"\pL\p{Lu}\PN[\p{Nd}]",
        r"\x41\x{1F525}\a\f\t\n\r\v",
        r"\.\*\_\-\/\&",
        "größe",
        "(a{10}){100}",
        "(?s).*(?m)^x$(?U)a+",
        "\0",
        "()",
        "^*",
        "$+",
        r"\b?",
        "(?i)",
        "a{0}",
        "a{0,0}",
        "[^\\n]",
        "(|a)*",
        "[--a]",
        "[a-]",
        "\\ ",
        "}",
        "]",
    ];
    let day = u32::try_from(DAY).unwrap();
    for pattern in patterns.into_iter().chain(heavy.iter().map(String::as_str)) {
        let quoted = pattern.replace('\\', "\\\\");
        let filter = [("tag_filter", json!(format!("pod REGEXP '{quoted}'")))];
        let reply = collector.ask(APP, day, day + 86_399, &filter).await;
        assert_eq!(reply.status, 200, "{pattern}: {}", reply.text);
    }
}
