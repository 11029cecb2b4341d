#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use proptest::prelude::*;

use super::*;

/// A cluster policy around this spec, whose first line is line 6.
fn cluster(spec: &str) -> String {
    document("ClusterProfilingPolicy", spec)
}

/// A namespaced one, the same lines.
fn namespaced(spec: &str) -> String {
    document("ProfilingPolicy", spec)
}

fn document(kind: &str, spec: &str) -> String {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: {API_VERSION}\nkind: {kind}\nmetadata:\n  name: p\nspec:\n{indented}")
}

/// The messages of a file: its errors, or else its warnings.
fn check(text: &str, expected: &[&str]) {
    let messages: Vec<String> = match parse_policy_file(text) {
        Ok((_, warnings)) => warnings.iter().map(|w| format!("warning: {w}")).collect(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(messages, expected, "\n{text}");
}

fn accepts(spec: &str) -> Spec {
    let (policies, warnings) = parse_policy_file(&cluster(spec)).unwrap();
    assert_eq!(warnings, []);
    policies.into_iter().next().unwrap().spec
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let spec = accepts("{}");
    assert_eq!(spec, Spec::Cluster(ClusterProfilingPolicySpec::default()));
    let core = spec.core();
    assert_eq!((core.disabled, core.frequency, core.cpu, core.priority), (false, 99, 0, 0));
    assert_eq!(core.java_symbol_file_refresh_defer_interval.seconds(), 600);
    assert_eq!((&core.regex, &core.duration, &core.pod_selector), (&None, &None, &None));
}

#[test]
fn frequency_is_1_to_1000() {
    let remedy = "write a whole number from 1 to 1000";
    accepts("frequency: 1");
    accepts("frequency: 999");
    check(&cluster("frequency: 0"), &[&format!("line 6: spec.frequency is 0, below 1; {remedy}")]);
    check(&cluster("frequency: 1001"), &[&format!("line 6: spec.frequency is 1001, above 1000; {remedy}")]);
    check(&cluster("frequency: -1"), &[&format!("line 6: spec.frequency is -1, below 1; {remedy}")]);
    let huge = "99999999999999999999";
    check(
        &cluster(&format!("frequency: {huge}")),
        &[&format!("line 6: spec.frequency is {huge}, above 1000; {remedy}")],
    );
    check(
        &cluster("frequency: \"99\""),
        &["line 6: spec.frequency is the text \"99\", not a whole number; \
           write a whole number from 1 to 1000, without quotes"],
    );
    check(
        &cluster("frequency: 9.5"),
        &["line 6: spec.frequency is 9.5, not a whole number; write a whole number from 1 to 1000"],
    );
}

#[test]
fn a_frequency_in_step_with_timers_is_accepted_with_a_warning() {
    let warning = |f: u32| {
        format!(
            "warning: line 6: spec.frequency is {f}, a multiple of 10: samples then run in lockstep with timers of \
             10 ms or 100 ms and see the same moment of periodic work every time, or never; prefer {}",
            f - 1
        )
    };
    check(&cluster("frequency: 100"), &[&warning(100)]);
    check(&cluster("frequency: 1000"), &[&warning(1000)]);
    check(&cluster("frequency: 10"), &[&warning(10)]);
    check(&cluster("frequency: 101"), &[]);
}

#[test]
fn cpu_is_0_or_1() {
    accepts("cpu: 0");
    accepts("cpu: 1");
    check(&cluster("cpu: 2"), &["line 6: spec.cpu is 2, above 1; write 0 or 1"]);
    check(&cluster("cpu: -1"), &["line 6: spec.cpu is -1, below 0; write 0 or 1"]);
    check(&cluster("cpu: true"), &["line 6: spec.cpu is true, not a whole number; write 0 or 1"]);
}

#[test]
fn the_java_interval_is_5s_to_3600s() {
    let field = "javaSymbolFileRefreshDeferInterval";
    let remedy = "write an interval from 5s to 3600s, such as 600s";
    for good in ["5s", "3600s", "60m", "1h"] {
        accepts(&format!("{field}: {good}"));
    }
    for (bad, problem) in [
        ("4s", "is 4s, below 5s"),
        ("3601s", "is 3601s, above 3600s"),
        ("61m", "is 61m, above 3600s"),
        ("2h", "is 2h, above 3600s"),
        ("0s", "is 0s, below 5s"),
    ] {
        check(&cluster(&format!("{field}: {bad}")), &[&format!("line 6: spec.{field} {problem}; {remedy}")]);
    }
    check(
        &cluster(&format!("{field}: 10min")),
        &[&format!(
            "line 6: spec.{field} is \"10min\", which is no interval (one to five digits and s, m or h); \
             write a whole number with s, m or h, such as 600s"
        )],
    );
    check(
        &cluster(&format!("{field}: 600")),
        &[&format!(
            "line 6: spec.{field} is 600, not an interval; write a whole number with s, m or h, such as 600s"
        )],
    );
}

#[test]
fn duration_is_10s_to_24h() {
    for good in ["10s", "24h", "86400s", "15m"] {
        accepts(&format!("duration: {good}"));
    }
    let remedy = "write an interval from 10s to 24h, such as 15m";
    check(&cluster("duration: 9s"), &[&format!("line 6: spec.duration is 9s, below 10s; {remedy}")]);
    check(&cluster("duration: 86401s"), &[&format!("line 6: spec.duration is 86401s, above 24h; {remedy}")]);
}

#[test]
fn priority_is_bounded_by_kind() {
    accepts("priority: 1000000");
    accepts("priority: -5");
    check(&namespaced("priority: 1000"), &[]);
    check(
        &namespaced("priority: 1001"),
        &["line 6: spec.priority is 1001, above 1000; write a whole number up to 1000"],
    );
    check(
        &cluster("priority: 1000001"),
        &["line 6: spec.priority is 1000001, above 1000000; write a whole number up to 1000000"],
    );
    check(
        &cluster("priority: 3000000000"),
        &["line 6: spec.priority is 3000000000, above 1000000; write a whole number up to 1000000"],
    );
}

#[test]
fn regex_compiles_and_has_at_most_512_characters() {
    let long = |n: usize| format!("regex: '{}.'", "é".repeat(n - 1));
    check(&cluster(&long(512)), &[]);
    check(
        &cluster(&long(513)),
        &["line 6: spec.regex has 513 characters, more than 512; shorten it, or write several policies"],
    );
    check(
        &cluster("regex: 'a(b'"),
        &["line 6: spec.regex does not compile: unclosed group; \
           write a regular expression as https://docs.rs/regex describes them"],
    );
    check(
        &cluster("regex: '(\\w{99}){9}'"),
        &["line 6: spec.regex takes more than 1024 KiB when compiled; \
           write a regular expression as https://docs.rs/regex describes them"],
    );
    check(
        &cluster("regex: 1"),
        &["line 6: spec.regex is 1, not a text; write it in quotes if that is meant"],
    );
}

#[test]
fn a_plain_regex_longer_than_a_comm_is_accepted_with_a_warning() {
    check(&cluster("regex: fifteen-letters"), &[]);
    let warning = "warning: line 6: spec.regex is plain text of 16 bytes, and the kernel keeps only 15 bytes of a \
                   process name, so it is never found there; \
                   write \"process-exporte\", or add match: cmdline or match: exe";
    check(&cluster("regex: process-exporter"), &[warning]);
    check(&cluster("regex: ^process-exporter$"), &[warning]);
    check(&cluster("regex: process-exporte.*"), &[]);
    check(&cluster("regex: process-exporter\nmatch: cmdline"), &[]);
    check(&cluster("regex: process-exporter\nmatch: exe"), &[]);
}

#[test]
fn words_are_those_of_the_table() {
    check(
        &cluster("match: name"),
        &["line 6: spec.match is the text \"name\", which it cannot be; write comm, cmdline or exe"],
    );
    check(
        &cluster("appService: pod"),
        &["line 6: spec.appService is the text \"pod\", which it cannot be; \
           write comm, container, workload or exe"],
    );
    check(
        &cluster("disabled: yes"),
        &[
            "line 6: spec.disabled is the text \"yes\", not true or false; write true or false, without quotes",
        ],
    );
    for word in ["comm", "container", "workload", "exe"] {
        accepts(&format!("appService: {word}"));
    }
}

#[test]
fn selectors_are_those_of_kubernetes() {
    accepts("podSelector: {}");
    accepts(
        "podSelector:\n  matchLabels: {app.kubernetes.io/name: web}\n  matchExpressions:\n  - {key: a, operator: In, values: [x, y]}\n  - {key: b, operator: Exists}",
    );
    check(
        &cluster("podSelector:\n  matchLabels:\n    version: 1"),
        &[
            "line 8: spec.podSelector.matchLabels.version is 1, not a text; write it in quotes if that is meant",
        ],
    );
    check(
        &cluster(
            "nodeSelector:\n  matchExpressions:\n  - key: a\n    operator: In\n  - key: b\n    operator: Exists\n    values: [x]\n  - operator: Gt",
        ),
        &[
            "line 8: spec.nodeSelector.matchExpressions[0].values is missing, and In needs it; list at least one value",
            "line 12: spec.nodeSelector.matchExpressions[1].values is given, and Exists takes none; \
             remove it, or use In or NotIn",
            "line 13: spec.nodeSelector.matchExpressions[2].operator is the text \"Gt\", which it cannot be; \
             write In, NotIn, Exists or DoesNotExist",
            "line 13: spec.nodeSelector.matchExpressions[2].key is missing; write the label's key",
        ],
    );
    check(
        &cluster("namespaceSelector:\n  matchLabel: {a: b}"),
        &["line 7: spec.namespaceSelector.matchLabel is an unknown field; did you mean matchLabels?"],
    );
    check(
        &cluster("podSelector:\n  matchLabels: {\"a b\": \"c/d\"}"),
        &[
            "line 7: spec.podSelector.matchLabels has \"a b\", which cannot be the key of a label; \
             write [prefix/]name as in kubectl get --show-labels",
            "line 7: spec.podSelector.matchLabels has \"c/d\", which cannot be the value of a label; \
             write at most 63 letters, digits, -, _ and ., with a letter or digit at both ends",
        ],
    );
    check(
        &cluster("podSelector: web"),
        &["line 6: spec.podSelector is the text \"web\", not a mapping; \
           write matchLabels or matchExpressions below it, or {} to select all"],
    );
}

#[test]
fn containers_are_names() {
    accepts("containers: [app, side-car]");
    check(
        &cluster("containers: []"),
        &["line 6: spec.containers is an empty list; \
           name at least one container, or remove it to mean all"],
    );
    check(
        &cluster("containers:\n- app\n- No Name"),
        &["line 8: spec.containers[1] is \"No Name\", which cannot be the name of a container; \
           write lower-case letters, digits and -, at most 63, as in the pod's spec"],
    );
    check(
        &cluster("containers: app"),
        &["line 6: spec.containers is the text \"app\", not a list; \
           write one value per line, each after a dash"],
    );
}

#[test]
fn a_cluster_only_field_is_refused_by_name_in_the_namespaced_kind() {
    let message = |line: u32, field: &str| {
        format!(
            "line {line}: spec.{field} is a field of ClusterProfilingPolicy, and this is a ProfilingPolicy; \
             remove it, or write kind: ClusterProfilingPolicy"
        )
    };
    check(
        &namespaced("namespaceSelector: {}\nnodeSelector: {}\nhostProcesses: true"),
        &[&message(6, "namespaceSelector"), &message(7, "nodeSelector"), &message(8, "hostProcesses")],
    );
    accepts("namespaceSelector: {}\nnodeSelector: {}\nhostProcesses: true");
}

#[test]
fn unknown_fields_are_refused_and_the_near_one_is_named() {
    check(&cluster("frequenzy: 9"), &["line 6: spec.frequenzy is an unknown field; did you mean frequency?"]);
    check(
        &cluster("java-symbol-file-refresh-defer-interval: 9s"),
        &["line 6: spec.java-symbol-file-refresh-defer-interval is an unknown field; \
           did you mean javaSymbolFileRefreshDeferInterval?"],
    );
    check(
        &cluster("\"a b\": 1"),
        &[
            "line 6: spec[\"a b\"] is an unknown field; remove it; the fields here are disabled, regex, match, \
           frequency, cpu, javaSymbolFileRefreshDeferInterval, priority, podSelector, containers, \
           namespaceSelector, nodeSelector, hostProcesses, appService, duration",
        ],
    );
    check(
        &format!("{}Spec: {{}}\n", cluster("{}")),
        &["line 7: Spec is an unknown field; did you mean spec?"],
    );
}

#[test]
fn a_field_is_written_once_and_an_empty_one_is_absent() {
    check(&cluster("cpu: 1\ncpu: 0"), &["line 7: spec.cpu is written twice; remove one of them"]);
    check(
        &cluster("podSelector:"),
        &["warning: line 6: spec.podSelector is empty and counts as absent; write a value, or remove it"],
    );
}

#[test]
fn all_errors_of_all_documents_are_reported_by_line() {
    let text = format!(
        "{}---\n{}---\nkind: Pod\n",
        cluster("frequency: 0\ncpu: 2\nregex: '['"),
        namespaced("frequency: 1001\nhostProcess: true")
    );
    check(
        &text,
        &[
            "line 6: spec.frequency is 0, below 1; write a whole number from 1 to 1000",
            "line 7: spec.cpu is 2, above 1; write 0 or 1",
            "line 8: spec.regex does not compile: unclosed character class; \
             write a regular expression as https://docs.rs/regex describes them",
            "line 15: spec.frequency is 1001, above 1000; write a whole number from 1 to 1000",
            "line 16: spec.hostProcess is an unknown field; did you mean hostProcesses?",
            "line 18: apiVersion is missing; write apiVersion: profiling.hearth.dev/v1alpha1",
            "line 18: kind is the text \"Pod\", which is no kind of policy; \
             write ProfilingPolicy or ClusterProfilingPolicy",
            "line 18: metadata.name is missing; write a name of lower-case letters, digits, - and .",
        ],
    );
}

#[test]
fn metadata_is_held_to_the_rules_of_kubernetes_and_its_other_fields_are_tolerated() {
    let with = |kind: &str, metadata: &str| {
        format!(
            "apiVersion: {API_VERSION}\nkind: {kind}\nmetadata:\n{metadata}spec: {{}}\nstatus: {{x: 1}}\n"
        )
    };
    let read_back = "  name: a.b\n  namespace: shop\n  uid: x\n  generation: 2\n  managedFields: [{manager: k}]\n  \
                     creationTimestamp: \"2026-01-01T00:00:00Z\"\n  labels: {a: b}\n  annotations: {c: d}\n";
    let (policies, warnings) = parse_policy_file(&with("ProfilingPolicy", read_back)).unwrap();
    assert_eq!(warnings, []);
    let metadata = &policies[0].metadata;
    assert_eq!(policies[0].id(), "shop/a.b");
    assert_eq!(metadata.creation_timestamp.as_deref(), Some("2026-01-01T00:00:00Z"));
    assert_eq!((metadata.labels.len(), metadata.annotations.len()), (1, 1));

    check(
        &with("ProfilingPolicy", "  name: A_b\n  namespace: x.y\n"),
        &[
            "line 4: metadata.name is \"A_b\", which cannot be the name of an object; \
             write a name of lower-case letters, digits, - and .",
            "line 5: metadata.namespace is \"x.y\", which cannot be the name of a namespace; \
             write lower-case letters, digits and -, at most 63",
        ],
    );
    check(
        &with("ClusterProfilingPolicy", "  name: a\n  namespace: x\n"),
        &["warning: line 5: metadata.namespace is ignored: a ClusterProfilingPolicy has none; \
           remove it, or write kind: ProfilingPolicy"],
    );
    check(
        &with("ProfilingPolicy", "  name: 5\n"),
        &["line 4: metadata.name is 5, not a text; write it in quotes if that is meant"],
    );
}

#[test]
fn a_namespaced_policy_without_namespace_is_in_default() {
    let (policies, _) = parse_policy_file(&format!("{}---\n{}", namespaced("{}"), cluster("{}"))).unwrap();
    assert_eq!(policies.iter().map(Policy::id).collect::<Vec<_>>(), ["default/p", "p"]);
}

#[test]
fn a_name_is_taken_once_per_kind_and_namespace() {
    check(
        &format!("{}---\n{}---\n{}", namespaced("{}"), cluster("{}"), namespaced("cpu: 1")),
        &["line 18: metadata.name is \"p\", and the ProfilingPolicy default/p is already there in line 4; \
           give one of them another name"],
    );
}

#[test]
fn what_is_no_policy_file_says_what_to_write() {
    let empty = "line 1: the file has no policy; write a document with apiVersion: profiling.hearth.dev/v1alpha1, \
                 kind: ClusterProfilingPolicy, metadata.name and spec";
    check("", &[empty]);
    check("# only a comment\n---\n", &[empty]);
    check(
        "- a\n- b\n",
        &["line 1: the document is a list, not a mapping; \
           write apiVersion, kind, metadata and spec, each with a colon"],
    );
    check(
        &cluster("regex: \"unclosed"),
        &["line 6: this is no YAML: while scanning a quoted scalar, found unexpected end of stream; \
           check indentation, quotes and brackets here and in the line before"],
    );
}

#[test]
fn size_and_number_of_documents_are_bounded() {
    check(
        &"#".repeat(MAX_FILE_BYTES + 1),
        &[
            "line 1: the file has 1048577 bytes, more than 1048576; write fewer policies: one can select many processes",
        ],
    );
    let many = |n: usize| -> String {
        let named = |i: usize| {
            format!(
                "---\napiVersion: {API_VERSION}\nkind: ClusterProfilingPolicy\nmetadata: {{name: p{i}}}\n"
            )
        };
        (0..n).map(named).collect()
    };
    assert_eq!(parse_policy_file(&many(MAX_DOCUMENTS)).unwrap().0.len(), MAX_DOCUMENTS);
    check(
        &many(MAX_DOCUMENTS + 1),
        &[
            "line 4002: the file has more than 1000 documents; write fewer policies: one can select many processes",
        ],
    );
}

#[test]
fn errors_are_counted_beyond_a_thousand() {
    let fields: String = (0..1500).map(|i| format!("x{i}: 1\n")).collect();
    let errors = parse_policy_file(&cluster(&fields)).unwrap_err().0;
    assert_eq!(errors.len(), 1001);
    let last = errors.last().unwrap().to_string();
    assert_eq!(last, "line 1006: the file has 500 more errors from here on; correct those above first");
}

#[test]
fn a_message_begins_with_file_and_line() {
    let errors = parse_policy_file(&cluster("cpu: 2\nfrequency: 0")).unwrap_err();
    assert_eq!(
        errors.in_file("p.yaml"),
        "p.yaml:6: spec.cpu is 2, above 1; write 0 or 1\n\
         p.yaml:7: spec.frequency is 0, below 1; write a whole number from 1 to 1000"
    );
}

#[test]
fn the_reader_and_serde_know_the_same_fields() {
    let selector =
        r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"In","values":["v"]}]}"#;
    let json = format!(
        r#"{{"disabled":true,"regex":"x","match":"exe","frequency":7,"cpu":1,
        "javaSymbolFileRefreshDeferInterval":"10m","priority":5,"podSelector":{selector},"containers":["c"],
        "namespaceSelector":{selector},"nodeSelector":{selector},"hostProcesses":true,
        "appService":"workload","duration":"1h"}}"#
    );
    let by_serde: ClusterProfilingPolicySpec = serde_json::from_str(&json).unwrap();
    // JSON is YAML.
    assert_eq!(accepts(&json), Spec::Cluster(by_serde.clone()));
    let written = serde_json::to_value(&by_serde).unwrap();
    let mut names: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
    let mut fields: Vec<&str> = reader::SPEC_FIELDS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    fields.sort_unstable();
    assert_eq!(names, fields);
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap() + "/../deploy/examples";
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            count += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            match parse_policy_file(&text) {
                Ok((_, warnings)) => assert_eq!(warnings, [], "{}", path.display()),
                Err(errors) => panic!("{}", errors.in_file(&path.display().to_string())),
            }
        }
    }
    assert!(count >= 3, "only {count} examples in {folder}");
}

/// Text made of the pieces that policies are made of, and of anything.
fn noise() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "apiVersion: profiling.hearth.dev/v1alpha1\n",
            "kind: ProfilingPolicy\n",
            "metadata:\n",
            "  name: p\n",
            "spec:\n",
            "  frequency: ",
            "  regex: ",
            "  podSelector:\n",
            "    matchExpressions:\n",
            "    - key: a\n",
            "---\n",
            "...\n",
            "- ",
            "? ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            "&a ",
            "*a ",
            "!!x ",
            "|\n",
            ">\n",
            "'",
            "\"",
            "#",
            "%",
            "\n",
            "\t",
            "  ",
            "99",
            "\u{feff}",
            "<<: ",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
        "[ -~]{0,8}",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn noise_gives_policies_or_errors_with_lines(text in noise()) {
        match parse_policy_file(&text) {
            Ok((policies, _)) => prop_assert!(!policies.is_empty()),
            Err(errors) => {
                prop_assert!(!errors.0.is_empty());
                for error in &errors.0 {
                    prop_assert!(error.line >= 1 && !error.problem.is_empty() && !error.remedy.is_empty(), "{error}");
                }
            }
        }
    }
}
