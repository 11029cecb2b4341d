//! `ProfileTracing`: each bad input is a 400 that says what to change. The
//! texts are tested where they are made; here it is that they arrive.

use serde_json::json;

use crate::common::Collector;

#[tokio::test]
async fn bad_input_is_refused_in_deepflows_envelope() {
    let collector = Collector::start().await;
    let usual = r#""profile_language_type":"eBPF","profile_event_type":"on-cpu""#;
    let bodies = [
        ("", "body is not valid JSON: EOF while parsing a value at line 1 column 0"),
        (
            "{\"app_service\": \"a\"",
            "body is not valid JSON: EOF while parsing an object at line 1 column 19",
        ),
        ("[]", "body is a list, not a JSON object"),
        ("{}", "app_service is missing: give a process name, or Total"),
    ];
    let fields = [
        (r#""time_start":1,"time_end":2"#, "app_service is missing: give a process name, or Total"),
        (
            r#""app_service":["a"],"time_start":1,"time_end":2"#,
            "app_service is a list, not a string: give a process name, or Total, in quotes",
        ),
        (
            r#""app_service":"a","time_start":5,"time_end":4"#,
            "time_end is 4, before time_start 5: swap them, or give a later one",
        ),
        (
            r#""app_service":"a","time_start":0,"time_end":4"#,
            "time_start is 0: give Unix seconds, greater than 0",
        ),
        (
            r#""app_service":"a","time_start":1,"time_end":-4"#,
            "time_end is -4: give Unix seconds, greater than 0",
        ),
        (
            r#""app_service":"a","time_start":1,"time_end":2,"format":"xml""#,
            "format is \"xml\": use rows or columns",
        ),
        (
            r#""app_service":"a","time_start":1,"time_end":2,"tag_filter":"pod LIKE a""#,
            "tag_filter is not understood at position 10: expected a pattern in quotes after LIKE, found a",
        ),
    ];
    let fields = fields.map(|(fields, description)| (format!("{{{usual},{fields}}}"), description));
    let types = [
        (
            r#"{"app_service":"a","profile_language_type":"Java","profile_event_type":"on-cpu","time_start":1,"time_end":2}"#,
            "profile_language_type is \"Java\", which is not stored: use eBPF",
        ),
        (
            r#"{"app_service":"a","profile_language_type":"eBPF","profile_event_type":"wall","time_start":1,"time_end":2}"#,
            "profile_event_type is \"wall\", which is not stored: use on-cpu",
        ),
    ];
    let huge = format!("{{\"app_service\":\"{}\"}}", "a".repeat(1 << 20));
    let huge = [(huge.as_str(), "body could not be read whole: it may have at most 1048576 bytes")];
    let fields = fields.iter().map(|(body, description)| (body.as_str(), *description));
    for (body, description) in bodies.into_iter().chain(fields).chain(types).chain(huge) {
        let reply = collector.post(body.to_owned()).await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        let expected = json!({
            "OPT_STATUS": "INVALID_POST_DATA", "DESCRIPTION": description, "result": null, "debug": null
        });
        assert_eq!(reply.json(), expected);
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused() {
    let reply = Collector::start().await.post(vec![b'"', 0xff, b'"']).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text.contains("body is not valid JSON: invalid unicode code point"), "{}", reply.text);
}
