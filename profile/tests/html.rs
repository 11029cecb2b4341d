//! The page's own script, run by node: what it computes, what it draws, and its hash in the policy.

use std::path::Path;
use std::process::Command;

use hearth_profile::tree::TreeBuilder;
use hearth_profile::write::Labels;
use hearth_profile::write::html::html;

fn node(arguments: &[&str], page: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.html", arguments[0]));
    std::fs::write(&file, page).expect("a file for the page");
    let output = Command::new("node")
        .arg(dir.join("tests/html").join(arguments[0]))
        .args(&arguments[1..])
        .arg(&file)
        .output()
        .expect("node runs: install it (Debian: apt-get install npm), or run scripts/setup.sh test");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn page() -> String {
    let mut tree = TreeBuilder::new("app");
    for (path, value) in [
        ("[t] a;main;work;work;[l] memcpy", 60),
        ("[t] a;main;work", 10),
        ("[t] a;main;[k] read", 20),
        ("[t] b;</script>", 10),
    ] {
        tree.add(path.split(';'), value);
    }
    html(&tree.finish(), Labels { title: "app", notes: &[] })
}

#[test]
fn the_model_computes_what_is_drawn() {
    node(&["model.mjs"], &page());
}

#[test]
fn the_view_draws_zooms_searches_and_follows_the_keyboard() {
    node(&["view.mjs"], &page());
}

#[test]
fn the_policy_allows_the_pages_script_and_style_and_nothing_else() {
    node(&["policy.mjs"], &page());
}
