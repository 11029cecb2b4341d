//! Filters as text in, SQL or errors out.

use super::tags::Kind;
use super::*;

/// A filter in; its SQL with the bound values, or the error, out.
fn check(filter: &str, expected: &str) {
    let text = match parse(filter) {
        Ok(None) => "none".to_owned(),
        Ok(Some(expr)) => {
            let mut values = Vec::new();
            let sql = expr.sql(&mut values);
            format!("{sql} {values:?}")
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(text, expected, "{filter}");
}

#[test]
fn comparisons_are_bound() {
    check("pod_ns = 'app'", r#"`pod_ns` = ? [Text("app")]"#);
    check("pod_ns='app'", r#"`pod_ns` = ? [Text("app")]"#);
    check("`pod` != \"a\"", r#"`pod` != ? [Text("a")]"#);
    check("process_id <> 12", "`process_id` != ? [Int(12)]");
    check("cpu>=0 and cpu <= 3", "(`cpu` >= ? AND `cpu` <= ?) [Int(0), Int(3)]");
    check("pod in ('a', 'b')", r#"`pod` IN (?, ?) [Text("a"), Text("b")]"#);
    check("pod NOT IN ('a')", r#"(NOT `pod` IN (?)) [Text("a")]"#);
}

#[test]
fn and_binds_tighter_than_or() {
    check(
        "pod='a' OR pod='b' AND NOT pod_ns='c'",
        r#"(`pod` = ? OR (`pod` = ? AND (NOT `pod_ns` = ?))) [Text("a"), Text("b"), Text("c")]"#,
    );
    check(
        "(pod='a' OR pod='b') AND pod_ns='c'",
        r#"((`pod` = ? OR `pod` = ?) AND `pod_ns` = ?) [Text("a"), Text("b"), Text("c")]"#,
    );
}

#[test]
fn a_chain_is_flat() {
    check("cpu=1 OR cpu=2 OR cpu=3", "(`cpu` = ? OR `cpu` = ? OR `cpu` = ?) [Int(1), Int(2), Int(3)]");
    check("cpu=1 AND cpu=2 AND cpu=3", "(`cpu` = ? AND `cpu` = ? AND `cpu` = ?) [Int(1), Int(2), Int(3)]");
}

#[test]
fn quotes_in_text_stay_in_the_text() {
    check("pod = 'it''s' ", r#"`pod` = ? [Text("it's")]"#);
    check(r"pod = 'it\'s\d'", r#"`pod` = ? [Text("it's\\d")]"#);
    check(
        "pod = '?' AND pod = \"') OR 1=1 --\"",
        r#"(`pod` = ? AND `pod` = ?) [Text("?"), Text("') OR 1=1 --")]"#,
    );
}

#[test]
fn blank_is_no_filter() {
    check("", "none");
    check("  \n", "none");
}

#[test]
fn errors_say_where_and_what_was_expected() {
    const OPERATORS: &str = "expected =, !=, <, <=, >, >=, IN, LIKE, REGEXP, NOT or IS, found";
    check("pod", &format!("at position 4: {OPERATORS} the end"));
    check("pod = ", "at position 7: expected text in quotes, as pod is text, found the end");
    check("pod = 5", "at position 7: expected text in quotes, as pod is text, found 5");
    check("pod = a", "at position 7: expected text in quotes, as pod is text, found a");
    check("process_id = '5'", "at position 14: expected a number, as process_id is one, found '5'");
    check("pod='a' pod_ns='b'", "at position 9: expected AND, OR or the end, found pod_ns");
    check("(pod='a'", "at position 9: expected AND, OR or ), found the end");
    check("pod IN ()", "at position 9: expected text in quotes, as pod is text, found )");
    check("pod IN ('a' 'b')", "at position 13: expected , or ), found 'b'");
    check("AND pod='a'", "at position 1: expected a tag, NOT or (, found AND");
    check("LIKE 'a'", "at position 1: expected a tag, NOT or (, found LIKE");
    check("pod = 'a", "at position 7: this ' is never closed");
    check("pod ; DROP", "at position 5: ';' has no meaning here");
    check("cpu = 1e3", "at position 7: 1e3 is no whole number that can be stored");
    check("grö = 'a' AND pod ~ 'a'", "at position 19: '~' has no meaning here");
    check("pod LIKE a", "at position 10: expected a pattern in quotes after LIKE, found a");
    check("pod NOT 'a'", "at position 9: expected IN, LIKE or REGEXP, found 'a'");
    check("pod IS 'a'", "at position 8: expected NULL or NOT NULL, found 'a'");
    check("pod IS NOT 'a'", "at position 12: expected NULL, found 'a'");
    check("pod = NULL", "at position 7: expected text in quotes, as pod is text, found NULL");
}

#[test]
fn like_is_in_any_case_and_patterns_are_bound() {
    check("pod LIKE 'web-*'", r#"ilike(`pod`, ?) [Text("web-%")]"#);
    check("pod not like 'a'", r#"(NOT ilike(`pod`, ?)) [Text("a")]"#);
    check(r"pod REGEXP '^web-\d+\.'", r#"match(`pod`, ?) [Text("^web-\\d+\\.")]"#);
    check("pod NOT REGEXP 'a'", r#"(NOT match(`pod`, ?)) [Text("a")]"#);
    check("process_id LIKE '12*'", r#"ilike(toString(`process_id`), ?) [Text("12%")]"#);
    check("time LIKE '2024-02-21 *'", r#"ilike(toString(`time`), ?) [Text("2024-02-21 %")]"#);
    check(
        "is_ipv4 REGEXP '4'",
        "match(multiIf(isIPv4String(CAST(`ip`, 'String')) = 0, 'IPv6', isIPv4String(CAST(`ip`, 'String')) = 1, \
         'IPv4', toString(isIPv4String(CAST(`ip`, 'String')))), ?) [Text(\"4\")]",
    );
}

#[test]
fn an_error_in_a_pattern_is_told_where_it_was_written() {
    check("pod REGEXP 'a('", "at position 14: in the pattern: unclosed group");
    // What protects a quote counts where it stands.
    check(r"pod REGEXP 'it''s\'('", "at position 20: in the pattern: unclosed group");
    check("pod REGEXP 'größe)'", "at position 18: in the pattern: unopened group");
}

#[test]
fn null_is_what_is_not_set() {
    check("pod IS NULL", "`pod` = '' []");
    check("pod is not null", "(NOT `pod` = '') []");
    check("process_id IS NULL", "false []");
    check("pod_group_type IS NULL", "`pod_group_type` = 0 []");
    check("cpu IS NULL", "`cpu` = 4095 []");
    check("k8s.label.app IS NULL", r#"(NOT mapContains(`k8s_label`, ?)) [Text("app")]"#);
    check("k8s.label IS NOT NULL", "(NOT empty(`k8s_label`)) []");
}

#[test]
fn a_map_tag_has_a_key() {
    let app = r#"`k8s_label`[?] = ? [Text("app"), Text("x")]"#;
    check("k8s.label.app = 'x'", app);
    check("`k8s.label.app` = 'x'", app);
    let name = r#"`k8s_label`[?] = ? [Text("app.kubernetes.io/name"), Text("x")]"#;
    check("`k8s.label.app.kubernetes.io/name` = 'x'", name);
    check("k8s.label.app.kubernetes.io/name = 'x'", name);
    check(
        "`k8s.annotation.a``b` IN ('x', 'y')",
        r#"`k8s_annotation`[?] IN (?, ?) [Text("a`b"), Text("x"), Text("y")]"#,
    );
    check("k8s.label.app LIKE 'x'", r#"ilike(`k8s_label`[?], ?) [Text("app"), Text("x")]"#);
    check(
        "k8s.label = 'x'",
        "at position 11: expected IS NULL, or a key before it, such as k8s.label.app, found =",
    );
    check("k8s.label. = 'x'", "at position 1: k8s.label needs a key of 1 to 512 bytes");
}

#[test]
fn an_address_is_compared_by_number_and_with_networks() {
    let is_one = "(isIPv4String(CAST(`ip`, 'String')) OR isIPv6String(CAST(`ip`, 'String')))";
    let key = "toIPv6OrDefault(CAST(`ip`, 'String'))";
    check(
        "ip = '10.0.0.0/8'",
        &format!(
            "({is_one} AND {key} >= toIPv6(?) AND {key} <= toIPv6(?)) \
             [Text(\"::ffff:10.0.0.0\"), Text(\"::ffff:10.255.255.255\")]"
        ),
    );
    check("ip < '::1'", &format!("({is_one} AND {key} < toIPv6(?)) [Text(\"::1\")]"));
    check(
        "ip != '10'",
        "at position 7: expected an address such as '10.1.2.3' or a network such as '10.0.0.0/8', found '10'",
    );
    check("ip LIKE '10.*'", r#"ilike(`ip`, ?) [Text("10.%")]"#);
}

#[test]
fn times_are_seconds_or_dates() {
    check("time >= 1708479421", "toUnixTimestamp(`time`) >= ? [Int(1708479421)]");
    check("time = '2024-02-21 01:37:01'", "toUnixTimestamp(`time`) = ? [Int(1708479421)]");
    check(
        "profile_in_timestamp IN (1, '1970-01-01 00:00:00.25')",
        "toUnixTimestamp64Micro(`profile_in_timestamp`) IN (?, ?) [Int(1000000), Int(250000)]",
    );
    check("time = 'now'", "at position 8: expected Unix seconds or 'YYYY-MM-DD hh:mm:ss' (UTC), found 'now'");
    check(
        "profile_in_timestamp = 9223372036854775807",
        "at position 24: expected Unix seconds or 'YYYY-MM-DD hh:mm:ss[.ffffff]' (UTC), found 9223372036854775807",
    );
}

#[test]
fn numbers_may_have_names() {
    check("pod_group_type = 'deployment'", "`pod_group_type` = ? [Int(130)]");
    check("pod_group_type IN (133, 'ReplicaSet')", "`pod_group_type` IN (?, ?) [Int(133), Int(134)]");
    check(
        "pod_group_type = 'x'",
        "at position 18: expected a number or one of 'Deployment', 'StatefulSet', 'ReplicationController', \
         'DaemonSet', 'ReplicaSetController', 'ReplicaSet', 'CloneSet', found 'x'",
    );
}

#[test]
fn the_same_row_has_another_id_under_total() {
    let expr = parse("_id = 5").unwrap_or_default().unwrap_or_else(|| panic!("a filter"));
    let (app, total) = (expr.sql(&mut Vec::new()), expr.sql_of_total(&mut Vec::new()));
    assert!(app.starts_with("bitShiftRight(sipHash64(app_service, batch,"), "{app}");
    assert_eq!(total, app.replace("app_service", "'Total'"));
}

#[test]
fn a_filter_tells_its_tags() {
    let filter = "pod = 'a' AND NOT (k8s.label.app = 'x' OR gprocess IN ('a') OR pod IS NULL) AND k8s.label.b LIKE 'x'";
    let expr = parse(filter).unwrap_or_default().unwrap_or_else(|| panic!("a filter"));
    let tags: Vec<_> = expr.tags().iter().map(|tag| (tag.name, tag.column)).collect();
    assert_eq!(tags, [("pod", "pod"), ("k8s.label", "k8s_label"), ("gprocess", "process_name")]);
}

#[test]
fn what_is_not_collected_is_refused_with_what_to_use_instead() {
    check(
        "chost = 'x'",
        "at position 1: Hearth does not collect chost: it does not ask the cloud about its machines; \
         use host or pod_node",
    );
    check(
        "pod = 'a' AND `k8s.env.PATH` LIKE 'x'",
        "at position 15: Hearth does not collect k8s.env: environment variables hold secrets; \
         use k8s.label or k8s.annotation",
    );
    check(
        "pod_ns_id = 5",
        "at position 1: no tag \"pod_ns_id\": rows carry names, not their numbers; use pod_ns",
    );
}

proptest::proptest! {
    #[test]
    fn whatever_is_written_the_answer_is_sound(
        filter in "(pod|cpu|ip|_id|`k8s.label.[ZQ'`\\\\]*`|AND|OR|NOT|IN|LIKE|REGEXP|IS|NULL|[()=<>!,]|'[ZQ'\\\\%*?(\\[]*'|`|\"|[0-9]{1,20}|-| |é|\\PC){0,30}"
    ) {
        match parse(&filter) {
            Ok(None) => {}
            Ok(Some(expr)) => {
                let mut values = Vec::new();
                let sql = expr.sql(&mut values);
                // Nothing of the text gets into the SQL but names of tags and placeholders.
                proptest::prop_assert_eq!(sql.matches('?').count(), values.len());
                proptest::prop_assert!(!sql.contains(['Z', 'Q', '"', '\\', '%']), "{}", sql);
            }
            Err(error) => {
                proptest::prop_assert!((1..=filter.chars().count() + 1).contains(&error.position));
            }
        }
    }
}

#[test]
fn nesting_and_length_are_bounded() {
    let deep = format!("{}pod='a'{}", "(".repeat(60), ")".repeat(60));
    check(&deep, "at position 52: nested deeper than 50 levels");
    check(&format!("{}pod='a'", "NOT ".repeat(60)), "at position 205: nested deeper than 50 levels");
    let long = format!("cpu IN ({}1)", "1,".repeat(1000));
    check(&long, "at position 2009: more than 1000 values");
    const TOO_MUCH: &str = "the patterns cost too much: use fewer or shorter ones, or smaller counts";
    check(&vec!["pod LIKE '***'"; 401].join(" OR "), &format!("at position 7210: {TOO_MUCH}"));
    check(
        "pod REGEXP 'a{900}' OR pod REGEXP '.{900}' OR pod REGEXP '.{920}'",
        &format!("at position 58: {TOO_MUCH}"),
    );
    let long = format!("pod REGEXP '{}'", "a".repeat(1025));
    check(&long, "at position 12: the pattern has 1025 bytes: give at most 1024");
    let key = format!("`k8s.label.{}` = 'a'", "a".repeat(513));
    check(&key, "at position 1: k8s.label needs a key of 1 to 512 bytes");
}

/// The tags of DeepFlow's table `in_process`, as documented.
const DOCUMENTED: [&str; 54] = [
    "_id",
    "time",
    "region",
    "az",
    "host",
    "chost",
    "vpc",
    "router",
    "dhcpgw",
    "lb",
    "lb_listener",
    "natgw",
    "redis",
    "rds",
    "pod_cluster",
    "pod_ns",
    "pod_node",
    "pod_ingress",
    "pod_service",
    "pod_group_type",
    "pod_group",
    "pod",
    "service",
    "auto_instance_type",
    "auto_instance",
    "auto_service_type",
    "auto_service",
    "gprocess",
    "host_ip",
    "host_hostname",
    "chost_ip",
    "chost_hostname",
    "pod_node_ip",
    "pod_node_hostname",
    "k8s.label",
    "k8s.annotation",
    "k8s.env",
    "cloud.tag",
    "biz_service.group",
    "ip",
    "is_ipv4",
    "app_service",
    "app_instance",
    "process_id",
    "trace_id",
    "span_name",
    "vtap",
    "agent",
    "profile_value_unit",
    "profile_event_type",
    "profile_create_timestamp",
    "profile_in_timestamp",
    "profile_language_type",
    "profile_id",
];

#[test]
fn every_documented_tag_is_collected_or_refused_by_name() {
    const OWN: [&str; 8] =
        ["policy", "process_name", "thread_name", "main_thread", "cpu", "container", "stack_id", "stack_end"];
    let mut expected: Vec<&str> = DOCUMENTED.into_iter().chain(OWN).collect();
    let collected = TAGS.iter().map(|tag| tag.name);
    let mut known: Vec<&str> = collected.chain(tags::NOT_COLLECTED.iter().map(|tag| tag.name)).collect();
    expected.sort_unstable();
    known.sort_unstable();
    assert_eq!(known, expected);
    assert_eq!((TAGS.len(), tags::NOT_COLLECTED.len()), (35 + OWN.len(), 19));
}

#[test]
fn the_documentation_has_every_tag() {
    let page = include_str!("../../../../docs/tag-filter.md");
    for tag in TAGS {
        let row = format!("| `{}` | {} | {} |", tag.name, kind_in_words(tag.kind), tag.about);
        assert!(page.contains(&row), "docs/tag-filter.md lacks: {row}");
    }
    for tag in tags::NOT_COLLECTED {
        let row = format!("| `{}` | {} |", tag.name, tag.why);
        assert!(page.contains(&row), "docs/tag-filter.md lacks: {row}");
    }
}

#[test]
fn the_documented_errors_are_the_real_ones() {
    let page = include_str!("../../../../docs/tag-filter.md");
    let errors = page.split("## Errors").nth(1).unwrap_or_default();
    let mut found = 0;
    for row in errors.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (filter, error) = row.split_once("` | ").unwrap_or_else(|| panic!("{row}"));
        check(filter, error.trim_end_matches(" |"));
        found += 1;
    }
    assert_eq!(found, 5);
}

#[test]
fn the_documented_examples_are_understood() {
    let page = include_str!("../../../../docs/tag-filter.md");
    let examples = page.split("```").nth(1).unwrap_or_default();
    for filter in examples.trim().lines() {
        assert!(matches!(parse(filter), Ok(Some(_))), "{filter}");
    }
}

fn kind_in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Number => "number",
        Kind::Enum(_) => "number with names",
        Kind::Time { .. } => "time",
        Kind::Ip => "address",
        Kind::Map => "map",
    }
}
