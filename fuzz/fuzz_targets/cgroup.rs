//! The cgroups of a process.
#![no_main]

use hearth_node_agent::pods::cgroup::pods;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, bool)| {
    let (text, is_own) = input;
    let own = is_own.then_some("own");
    let pods = pods(text, own);
    assert!(pods.len() <= 4, "bounded");
    for pod in pods {
        assert!(!pod.uid.is_empty() && pod.uid.len() <= 64 && !pod.uid.contains(['/', '_', ':']));
        let is_id = |id: &str| (32..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(pod.container.is_none_or(|id| is_id(&id)));
    }
});
