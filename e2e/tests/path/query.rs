//! Questions to the running collector: bad ones are told what to change, empty answers say why.

use hearth_e2e::{Agent, Collector, Program, machine, policy, svg, unique_name};
use serde_json::{Value, json};

/// The documented request with `change` in it; null takes a field away.
fn request(field: &str, change: Value) -> String {
    let mut body = json!({
        "app_service": "redis-server", "profile_language_type": "eBPF", "profile_event_type": "on-cpu",
        "tag_filter": "", "time_start": 1_708_479_421, "time_end": 1_708_480_321,
    });
    let fields = body.as_object_mut().unwrap();
    match change {
        Value::Null => drop(fields.remove(field)),
        change => drop(fields.insert(field.to_owned(), change)),
    }
    body.to_string()
}

/// A body in; 400, INVALID_POST_DATA and a description that says `expected` out.
fn check_refused(body: &str, expected: &str) {
    let answer = Collector::shared().profile_tracing(body);
    assert_eq!(answer.status, 400, "{body}: {}", answer.body);
    let answer = answer.json();
    assert_eq!(answer["OPT_STATUS"], "INVALID_POST_DATA", "{body}");
    assert_eq!(answer["result"], Value::Null, "{body}");
    let description = answer["DESCRIPTION"].as_str().unwrap();
    assert!(description.contains(expected), "{body}: {description:?} does not say {expected:?}");
}

#[test]
fn a_bad_request_is_told_what_to_change() {
    let fields = ["app_service", "profile_language_type", "profile_event_type", "time_start", "time_end"];
    for field in fields {
        check_refused(&request(field, Value::Null), &format!("{field} is missing: give "));
        check_refused(&request(field, json!([])), &format!("{field} is a list, not "));
    }
    check_refused(&request("tag_filter", json!(5)), "tag_filter is 5, not a string");
    check_refused(&request("tag_filter", json!("pod_ns = ")), "tag_filter is not understood at position ");
    check_refused(&request("tag_filter", json!("color = 'red'")), "color");
    check_refused(&request("time_start", json!("1708479421")), "write it without quotes");
    check_refused(&request("time_start", json!(1_708_480_322)), "before time_start 1708480322: swap them");
    check_refused(&request("time_end", json!(1.5)), "time_end is 1.5, not an integer");
    check_refused(&request("profile_event_type", json!("off-cpu")), "use on-cpu");
    check_refused(&request("profile_language_type", json!("Golang")), "use eBPF");
    check_refused("", "body is not valid JSON");
    check_refused("[]", "body is a list, not a JSON object");
    // The documentation of DeepFlow prints this very slip.
    check_refused("{\"app_service\": \"x\", \"tag_filter: \"\"}", "at line 1 column");
}

#[test]
fn values_are_bound_not_pasted() {
    let collector = Collector::shared();
    let filter = json!("pod_ns = '''; DROP TABLE profile.in_process_local; --'");
    let answer = collector.profile_tracing(&request("tag_filter", filter));
    assert_eq!((answer.status, answer.json()["OPT_STATUS"].as_str()), (200, Some("SUCCESS")));
    let exists = "SELECT count() FROM system.tables WHERE database = 'profile' AND name = 'in_process_local'";
    assert_eq!(collector.number(exists), 1);
}

/// A profiled program that every way to ask is asked about.
#[test]
fn an_answer_in_every_form_and_a_reason_for_every_empty_one() {
    let _machine = machine::together();
    let comm = unique_name("query");
    let program = Program::compile(
        &comm,
        "FUNCTION void leaf_of_query(void) { BURN(1000000); }\n\
         int main(void) { for (;;) leaf_of_query(); }",
    );
    let mut agent = Agent::start(&policy("query", &format!("regex: '^{comm}$', frequency: 199")));
    let process = program.start::<&str>(&[]);
    let collector = Collector::shared();
    agent.wait_for_samples(&comm, 100);
    process.kill();
    agent.stop();

    let flame = collector.flame(&comm, &agent.node).unwrap();
    let total = flame.root().total;
    every_format_agrees(&comm, &agent.node, total);
    empty_answers_say_why(&comm, &agent.node);

    let columns = request("format", json!("columns")).replace("redis-server", &comm);
    let columns = columns.replace("1708479421", "1").replace("1708480321", "4294967295");
    let columns = collector.profile_tracing(&columns).json();
    assert_eq!(columns["OPT_STATUS"], "SUCCESS");
    assert!(columns["result"].is_object(), "{columns}");

    let apps = collector.get("/api/v1/apps?from=1&until=4294967295").json();
    let apps = apps["apps"].as_array().unwrap();
    let app = apps.iter().find(|app| app["name"] == *comm).unwrap();
    assert_eq!(app["value"], total);
}

fn every_format_agrees(comm: &str, node: &str, total: i64) {
    let collector = Collector::shared();
    let folded = collector.folded(comm, node);
    assert_eq!(folded.total(), total, "folded");
    let hottest = folded.0.iter().max_by_key(|(_, value)| **value).unwrap().0;
    assert_eq!(hottest.last().map(String::as_str), Some("leaf_of_query"));

    let path = format!(
        "/api/v1/flamegraph?app_service={comm}&from=1&until=4294967295&filter=pod_node%3D'{node}'&format="
    );
    let tree = collector.get(&format!("{path}json"));
    assert!(tree.headers.to_lowercase().contains("content-type: application/json"), "{}", tree.headers);
    assert_eq!(tree.json()["unit"], "microseconds");
    assert!(tree.body.contains("\"leaf_of_query\""));

    let drawing = collector.get(&format!("{path}svg"));
    assert!(drawing.headers.to_lowercase().contains("content-type: image/svg+xml"), "{}", drawing.headers);
    let titles = svg::titles(&drawing.body);
    for name in [&format!("[t] {comm}"), "main", "leaf_of_query"] {
        assert!(titles.iter().any(|title| title.starts_with(name)), "{name} is not in {titles:?}");
    }
}

fn empty_answers_say_why(comm: &str, node: &str) {
    let collector = Collector::shared();
    let filter = format!("pod_node = '{node}'");
    let ask = |app: &str, filter: &str, from, until| {
        collector.flame_between(app, filter, from, until).expect_err("there is nothing to see")
    };
    let forever = (1, i64::from(u32::MAX));

    let slip = &comm[..comm.len() - 1];
    let reason = ask(slip, "", forever.0, forever.1);
    assert!(reason.contains(&format!("no app_service {slip:?} is stored")), "{reason}");
    assert!(reason.contains(&format!("like it: {comm}")), "{reason}");

    let reason = ask(comm, &filter, 1000, 2000);
    assert!(reason.contains("has no samples between 1970-01-01 00:16:40 UTC"), "{reason}");
    assert!(reason.contains("the last of 20"), "{reason}");

    let reason = ask(comm, "pod_node = 'elsewhere'", forever.0, forever.1);
    assert!(reason.contains("the filter matches none of them"), "{reason}");

    let svg = format!("/api/v1/flamegraph?app_service={slip}&from=1&until=4294967295&format=svg");
    let svg = collector.get(&svg);
    assert!(svg.body.contains("no app_service"), "an empty drawing holds the reason: {}", svg.body);
}

#[test]
fn a_bad_parameter_of_the_api_is_named() {
    let check = |query: &str, field: &str| {
        let answer = Collector::shared().get(&format!("/api/v1/flamegraph?{query}"));
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        assert_eq!(answer.json()["field"], field, "{query}: {}", answer.body);
    };
    check("", "app_service");
    check("app_service=x&format=png", "format");
    check("app_service=x&event=off-cpu", "event");
    check("app_service=x&from=2&until=1", "until");
    check("app_service=x&filter=pod_ns%3D%3D1", "filter");
}
