//! The file format of <https://www.speedscope.app>, by its published schema.

use serde::Serialize;

use crate::tree::{Node, Tree};

/// A file: several profiles over one list of frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: &'a str,
    #[serde(rename = "activeProfileIndex")]
    active_profile_index: u32,
    shared: Shared<'a>,
    profiles: Vec<Profile<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Shared<'a> {
    frames: Vec<Frame<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Frame<'a> {
    name: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "sampled")]
struct Profile<'a> {
    name: &'a str,
    unit: &'static str,
    #[serde(rename = "startValue")]
    start_value: i64,
    #[serde(rename = "endValue")]
    end_value: i64,
    /// Indices of frames, root first.
    samples: Vec<Vec<u32>>,
    /// One for each sample.
    weights: Vec<i64>,
}

/// The tree as one profile for each node of its first level, a thread or, in
/// `Total`, a process, the hottest first. `name` is what the window is called.
///
/// There is always a profile, as speedscope opens no file without.
pub fn speedscope<'a>(tree: &'a Tree, name: &'a str) -> File<'a> {
    let mut profiles: Vec<Profile<'a>> = Vec::new();
    let root = tree.root();
    if root.self_value != 0 || tree.nodes().len() == 1 {
        profiles.push(profile(tree, root));
        add_sample(&mut profiles, &[root.name], root.self_value);
    }
    let mut path = Vec::new();
    for node in &tree.nodes()[1..] {
        if node.depth == 1 {
            profiles.push(profile(tree, node));
        }
        path.truncate(node.depth as usize - 1);
        path.push(node.name);
        add_sample(&mut profiles, &path, node.self_value);
    }
    File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: concat!("hearth ", env!("CARGO_PKG_VERSION")),
        name,
        active_profile_index: 0,
        shared: Shared { frames: tree.names().iter().map(|name| Frame { name }).collect() },
        profiles,
    }
}

fn profile<'a>(tree: &'a Tree, node: &Node) -> Profile<'a> {
    Profile {
        name: tree.name(node),
        unit: "microseconds",
        start_value: 0,
        end_value: 0,
        samples: Vec::new(),
        weights: Vec::new(),
    }
}

fn add_sample(profiles: &mut [Profile<'_>], path: &[u32], value: i64) {
    let Some(profile) = profiles.last_mut().filter(|_| value != 0) else { return };
    profile.samples.push(path.to_vec());
    profile.weights.push(value);
    profile.end_value = profile.end_value.saturating_add(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    fn check(stacks: &str, expected: &str) {
        let tree = tree("app", stacks);
        let text = serde_json::to_string(&speedscope(&tree, "a name").profiles).expect("plain data");
        assert_eq!(text.replace(r#""type":"sampled","#, ""), expected);
    }

    #[test]
    fn each_thread_is_a_profile() {
        check(
            "[t] a;main;f 3\n[t] a;main 1\n[t] b;main 2",
            concat!(
                r#"[{"name":"[t] a","unit":"microseconds","startValue":0,"endValue":4,"#,
                r#""samples":[[1,2],[1,2,3]],"weights":[1,3]},"#,
                r#"{"name":"[t] b","unit":"microseconds","startValue":0,"endValue":2,"#,
                r#""samples":[[4,2]],"weights":[2]}]"#,
            ),
        );
    }

    #[test]
    fn there_is_always_a_profile() {
        check(
            "",
            r#"[{"name":"app","unit":"microseconds","startValue":0,"endValue":0,"samples":[],"weights":[]}]"#,
        );
    }

    #[test]
    fn the_file_names_its_format_and_frames() {
        let tree = tree("app", "\"f 1");
        let file = serde_json::to_value(speedscope(&tree, "a name")).expect("plain data");
        assert_eq!(file["$schema"], "https://www.speedscope.app/file-format-schema.json");
        assert_eq!(file["name"], "a name");
        assert_eq!(file["shared"]["frames"], serde_json::json!([{ "name": "app" }, { "name": "\"f" }]));
        assert_eq!(file["profiles"][0]["type"], "sampled");
    }
}
