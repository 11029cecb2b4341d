//! Every bound of a policy, from both sides: `kubectl apply` and the policy file say the same, and name the
//! same field.

use hearth_e2e::Cluster;
use hearth_e2e::cluster::text;
use hearth_e2e::daemon::wait_for;
use hearth_e2e::hearth::install_kinds;
use hearth_policy::parse_policy_file;
use libtest_mimic::Trial;

use crate::on_cluster;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        on_cluster("bounds::apply_refuses_what_the_policy_file_refuses", apply_refuses_what_the_file_refuses),
        on_cluster("bounds::apply_warns_of_what_the_policy_file_warns_of", apply_warns),
        on_cluster("bounds::examples_are_taken_as_they_are", examples_are_taken_as_they_are),
    ]
}

const NAMESPACED: &str = "ProfilingPolicy";
const CLUSTER: &str = "ClusterProfilingPolicy";

/// A spec, and the field that is wrong in it.
struct Case {
    kind: &'static str,
    spec: String,
    wrong: Option<&'static str>,
}

fn good(kind: &'static str, spec: impl Into<String>) -> Case {
    Case { kind, spec: spec.into(), wrong: None }
}

fn bad(kind: &'static str, spec: impl Into<String>, field: &'static str) -> Case {
    Case { kind, spec: spec.into(), wrong: Some(field) }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        good(NAMESPACED, "{}"),
        good(CLUSTER, "{}"),
        good(CLUSTER, "{hostProcesses: true, namespaceSelector: {}, nodeSelector: {}, podSelector: {}}"),
        bad(NAMESPACED, "{hostProcesses: true}", "spec.hostProcesses"),
        bad(NAMESPACED, "{namespaceSelector: {}}", "spec.namespaceSelector"),
        bad(NAMESPACED, "{nodeSelector: {}}", "spec.nodeSelector"),
        bad(NAMESPACED, "{frequenzy: 99}", "spec.frequenzy"),
        bad(NAMESPACED, "{disabled: maybe}", "spec.disabled"),
        good(NAMESPACED, format!("{{regex: {}}}", "a".repeat(512))),
        bad(NAMESPACED, format!("{{regex: {}}}", "a".repeat(513)), "spec.regex"),
        bad(NAMESPACED, "{regex: 7}", "spec.regex"),
    ];
    let numbers: [(&str, &'static str, &[i64], &[i64]); 3] = [
        (NAMESPACED, "frequency", &[1, 1000], &[0, -1, 1001, 4_294_967_395]),
        (NAMESPACED, "cpu", &[0, 1], &[-1, 2, 257]),
        (NAMESPACED, "priority", &[-2_147_483_648, 1000], &[-2_147_483_649, 1001]),
    ];
    for (_, field, inside, outside) in numbers {
        let path =
            ["spec.frequency", "spec.cpu", "spec.priority"].into_iter().find(|p| p.ends_with(field)).unwrap();
        cases.extend(inside.iter().map(|value| good(NAMESPACED, format!("{{{field}: {value}}}"))));
        cases.extend(outside.iter().map(|value| bad(NAMESPACED, format!("{{{field}: {value}}}"), path)));
        cases.extend(
            ["'1'", "1.5", "[1]"].map(|value| bad(NAMESPACED, format!("{{{field}: {value}}}"), path)),
        );
    }
    cases
        .extend([good(CLUSTER, "{priority: 1000000}"), bad(CLUSTER, "{priority: 1000001}", "spec.priority")]);
    let texts: [(&'static str, &[&str], &[&str]); 4] = [
        (
            "spec.javaSymbolFileRefreshDeferInterval",
            &["5s", "1m", "3600s", "1h"],
            &["4s", "0h", "3601s", "2h", "100000s", "5", "5d", "'-5s'", "5.5s", "''"],
        ),
        ("spec.duration", &["10s", "24h", "86400s"], &["9s", "86401s", "25h", "99999h", "1d"]),
        ("spec.match", &["comm", "cmdline", "exe"], &["Comm", "name", "''"]),
        ("spec.appService", &["comm", "container", "workload", "exe"], &["pod", "Workload"]),
    ];
    for (path, inside, outside) in texts {
        let field = path.strip_prefix("spec.").unwrap();
        cases.extend(inside.iter().map(|value| good(NAMESPACED, format!("{{{field}: {value}}}"))));
        cases.extend(outside.iter().map(|value| bad(NAMESPACED, format!("{{{field}: {value}}}"), path)));
    }
    cases.extend(lists());
    cases
}

/// Containers and selectors.
fn lists() -> Vec<Case> {
    let many = |count: usize| (0..count).map(|i| format!("n{i}")).collect::<Vec<_>>().join(", ");
    let labels = |count: usize| (0..count).map(|i| format!("l{i}: x")).collect::<Vec<_>>().join(", ");
    let expression = |text: &str| format!("{{podSelector: {{matchExpressions: [{text}]}}}}");
    let label = |text: &str| format!("{{podSelector: {{matchLabels: {{{text}}}}}}}");
    let (l63, l64) = ("x".repeat(63), "x".repeat(64));
    let (p253, p254) = ([&*l63, &l63, &l63, &l63[..61]].join("."), [&*l63, &l63, &l63, &l63[..62]].join("."));
    assert_eq!((p253.len(), p254.len()), (253, 254));
    let mut cases = vec![
        good(NAMESPACED, format!("{{containers: [{}]}}", many(64))),
        bad(NAMESPACED, format!("{{containers: [{}]}}", many(65)), "spec.containers"),
        good(NAMESPACED, format!("{{containers: [{l63}]}}")),
        bad(NAMESPACED, format!("{{containers: [a, {l64}]}}"), "spec.containers[1]"),
        bad(NAMESPACED, "{containers: [App]}", "spec.containers[0]"),
        bad(NAMESPACED, "{containers: ['']}", "spec.containers[0]"),
        bad(NAMESPACED, "{containers: app}", "spec.containers"),
        good(NAMESPACED, label(&labels(64))),
        bad(NAMESPACED, label(&labels(65)), "spec.podSelector.matchLabels"),
        good(NAMESPACED, label(&format!("{l63}: {l63}, a: ''"))),
        good(NAMESPACED, label(&format!("{p253}/{l63}: x, A_b.c-d: A_b.c-d"))),
        bad(NAMESPACED, label(&format!("{l64}: x")), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label(&format!("{p254}/x: x")), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label("UPPER.io/x: x"), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label("/x: x"), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label("x/: x"), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label("-x: x"), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label("'': x"), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label(&format!("a: {l64}")), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label("a: x/y"), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label("a: -x"), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, label("a: 1"), "spec.podSelector.matchLabels"),
        bad(NAMESPACED, "{podSelector: {matchLables: {}}}", "spec.podSelector.matchLables"),
        bad(NAMESPACED, "{podSelector: all}", "spec.podSelector"),
        good(
            NAMESPACED,
            expression("{key: a/b, operator: Exists}, {key: a, operator: DoesNotExist, values: []}"),
        ),
        good(NAMESPACED, expression(&format!("{{key: a, operator: In, values: [{}]}}", many(64)))),
        good(NAMESPACED, expression("{key: a, operator: NotIn, values: ['']}")),
        good(NAMESPACED, expression(&vec!["{key: a, operator: Exists}"; 64].join(", "))),
        bad(
            NAMESPACED,
            expression(&vec!["{key: a, operator: Exists}"; 65].join(", ")),
            "spec.podSelector.matchExpressions",
        ),
    ];
    for (text, field) in [
        ("{key: a, operator: In}", ""),
        ("{key: a, operator: NotIn, values: []}", ""),
        ("{key: a, operator: Exists, values: [b]}", ""),
        ("{key: a, operator: in, values: [b]}", ".operator"),
        ("{operator: Exists}", ".key"),
        ("{key: a}", ".operator"),
        ("{key: a b, operator: Exists}", ".key"),
        ("{key: a, operator: In, values: [b/c]}", ".values"),
        ("{key: a, operator: In, values: [b], extra: 1}", ".extra"),
    ] {
        let path = format!("spec.podSelector.matchExpressions[0]{field}");
        cases.push(bad(NAMESPACED, expression(text), path.leak()));
    }
    let values = format!("{{key: a, operator: In, values: [{}]}}", many(65));
    cases.push(bad(NAMESPACED, expression(&values), "spec.podSelector.matchExpressions[0].values"));
    cases
}

fn apply_refuses_what_the_file_refuses(cluster: &Cluster) {
    install_kinds(cluster);
    let mut different = Vec::new();
    for Case { kind, spec, wrong } in cases() {
        let document = format!(
            "apiVersion: {}\nkind: {kind}\nmetadata: {{name: bounds}}\nspec: {spec}\n",
            hearth_policy::API_VERSION
        );
        let output = cluster.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], &document);
        let applied = (!output.status.success()).then(|| text(&output));
        let read = parse_policy_file(&document).err().map(|errors| errors.to_string());
        for (who, said) in [("kubectl apply", applied), ("the policy file", read)] {
            let agrees = match (&said, wrong) {
                (None, None) => true,
                (Some(said), Some(field)) => said.contains(field),
                _ => false,
            };
            if !agrees {
                let spec: String = spec.chars().take(120).collect();
                different.push(format!("{kind} {spec}: {who} should refuse {wrong:?} and says {said:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    // What no schema can tell; the operator says it in the status.
    let document = format!(
        "apiVersion: {}\nkind: {CLUSTER}\nmetadata: {{name: bounds}}\nspec: {{regex: 'a(b'}}\n",
        hearth_policy::API_VERSION
    );
    assert!(cluster.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], &document).status.success());
    assert!(parse_policy_file(&document).is_err());
}

fn apply_warns(cluster: &Cluster) {
    install_kinds(cluster);
    let warnings = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/warnings.yaml");
    cluster.kubectl(&["apply", "-f", warnings]);
    let apply = |spec: &str| {
        let document = format!(
            "apiVersion: {}\nkind: {NAMESPACED}\nmetadata: {{name: odd}}\nspec: {spec}\n",
            hearth_policy::API_VERSION
        );
        let output = cluster.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], &document);
        assert!(output.status.success(), "{}", text(&output));
        let (_, read) = parse_policy_file(&document).unwrap();
        (text(&output), read.iter().map(ToString::to_string).collect::<String>())
    };
    // The API server takes a moment to follow its own policies.
    wait_for("the first warning", || apply("{frequency: 100}").0.contains("Warning: ").then_some(()));
    for (spec, expected) in [
        ("{frequency: 100}", "spec.frequency is 100, a multiple of 10"),
        ("{regex: ^process-exporter}", "spec.regex is plain text of "),
        ("{frequency: 99}", ""),
        ("{regex: ^process-exporte}", ""),
        ("{regex: '^process-exporter.*'}", ""),
        ("{regex: process-exporter, match: exe}", ""),
    ] {
        let (applied, read) = apply(spec);
        assert_eq!(applied.contains("Warning: "), !expected.is_empty(), "{spec}: {applied}");
        assert!(applied.contains(expected) && read.contains(expected), "{spec}: {applied}{read}");
        assert_eq!(read.is_empty(), expected.is_empty(), "{spec}: {read}");
    }
}

fn examples_are_taken_as_they_are(cluster: &Cluster) {
    install_kinds(cluster);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let document = std::fs::read_to_string(&path).unwrap();
        parse_policy_file(&document).unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
        // Their namespaces are not there.
        let lines = document.lines().filter(|line| !line.trim_start().starts_with("namespace:"));
        let document = lines.collect::<Vec<_>>().join("\n");
        let output = cluster.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], &document);
        assert!(output.status.success(), "{}: {}", path.display(), text(&output));
        count += 1;
    }
    assert!(count >= 5, "{count} examples");
}
