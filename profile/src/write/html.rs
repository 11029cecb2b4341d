//! A flame graph as one HTML page that needs nothing else: it opens from a file,
//! without a network, and its policy allows exactly its own script and style.
//!
//! The tree is in the page as columns of JSON, in an element that is no script.

use serde::Serialize;

use super::Labels;
use super::columns::function_type;
use super::markup::escape;
use crate::diff::Diff;
use crate::tree::Tree;

const SCRIPT: &str = concat!(include_str!("html/model.js"), include_str!("html/view.js"));
const STYLE: &str = include_str!("html/style.css");

/// What the page may do: run its script and apply its style, known by their
/// SHA-256. The page says it itself; a server should say it too.
pub const POLICY: &str = "default-src 'none'; \
     script-src 'sha256-0bmaj40BQZYgLQ4lp867r2YfE3Gg//X9IVCrWd7dYfE='; \
     style-src 'sha256-fN8BU88ylaj08fBMCH4FjKcuLCaxNCpBVM1QeyIJHws='; \
     base-uri 'none'; form-action 'none'";

/// The tree as the page's script takes it; a field name is a variable there.
#[derive(Debug, Serialize)]
struct Data<'a> {
    notes: &'a [String],
    names: &'a [String],
    /// A letter for each name: what kind of frame it is.
    kinds: String,
    /// Of each node, in preorder.
    level: Vec<u32>,
    name: Vec<u32>,
    #[serde(rename = "self")]
    self_value: Vec<i64>,
    /// Of each node in the base, if two profiles are compared; `self` is the other's then.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<Vec<i64>>,
}

/// The page of a tree.
pub fn html(tree: &Tree, labels: Labels<'_>) -> String {
    let self_value = tree.nodes().iter().map(|node| node.self_value).collect();
    page(tree, labels, self_value, None)
}

/// The page of a comparison: a bar is as wide as both together, its colour says which has more.
pub fn diff_html(diff: &Diff, labels: Labels<'_>) -> String {
    let Diff { tree, base, new, scale: _ } = diff;
    let base = base.iter().map(|values| values.self_value).collect();
    page(tree, labels, new.iter().map(|values| values.self_value).collect(), Some(base))
}

fn page(tree: &Tree, labels: Labels<'_>, self_value: Vec<i64>, base: Option<Vec<i64>>) -> String {
    let Labels { title, notes } = labels;
    let names = tree.names();
    let kinds = names.iter().enumerate().map(|(index, name)| function_type(index, name)).collect();
    let level = tree.nodes().iter().map(|node| node.depth).collect();
    let name = tree.nodes().iter().map(|node| node.name).collect();
    let data = Data { notes, names, kinds, level, name, self_value, base };
    let data = serde_json::to_string(&data).expect("names and numbers");
    // The element ends at `</script`, wherever that stands; in JSON `<` occurs only within strings.
    let data = data.replace('<', "\\u003c");
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\n\
         <style>{STYLE}</style></head>\n<body><header><h1>{title}</h1></header>\n\
         <noscript>The graph is drawn by the script of this page, which your browser does not run.</noscript>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n\
         <script>{SCRIPT}</script></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::{Scale, diff};
    use crate::testing::tree;

    fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
        let after = page.split_once(start).unwrap_or_else(|| panic!("no {start}")).1;
        after.split_once(end).unwrap_or_else(|| panic!("no {end}")).0
    }

    fn data(page: &str) -> serde_json::Value {
        let json = between(page, "<script type=\"application/json\" id=\"data\">", "</script>");
        serde_json::from_str(json).expect("JSON")
    }

    #[test]
    fn the_page_holds_the_tree_in_columns() {
        let notes = ["a note".to_owned()];
        let page = html(&tree("app", "[t] a;f;f 3\n[t] a;[k] g 1"), Labels { title: "x & y", notes: &notes });
        assert_eq!(
            data(&page),
            serde_json::json!({
                "notes": ["a note"],
                "names": ["app", "[t] a", "f", "[k] g"],
                "kinds": "PTAK",
                "level": [0, 1, 2, 3, 2],
                "name": [0, 1, 2, 2, 3],
                "self": [0, 0, 0, 3, 1]
            })
        );
        assert_eq!(between(&page, "<title>", "</title>"), "x &amp; y");
    }

    #[test]
    fn a_comparison_has_both() {
        let diff = diff(&tree("app", "a 3"), &tree("app", "a 1\nb 5"), Scale::Absolute);
        let data = data(&diff_html(&diff, Labels { title: "", notes: &[] }));
        assert_eq!(
            (&data["self"], &data["base"]),
            (&serde_json::json!([0, 5, 1]), &serde_json::json!([0, 0, 3]))
        );
        assert_eq!(
            (&data["names"], &data["name"]),
            (&serde_json::json!(["app", "a", "b"]), &serde_json::json!([0, 2, 1]))
        );
    }

    #[test]
    fn no_name_breaks_out_of_its_place() {
        let evil = "</script><script>alert(1)</script><!--\"'&\\\u{2028}";
        let notes = [evil.to_owned()];
        let page = html(&tree(evil, &format!("{evil} 3")), Labels { title: evil, notes: &notes });
        assert_eq!(page.matches("<script").count(), 2, "the data and ours");
        assert_eq!(page.matches("</script").count(), 2);
        assert!(!page.contains("<!--"));
        assert_eq!(data(&page)["names"], serde_json::json!([evil, evil]));
        assert_eq!(data(&page)["notes"], serde_json::json!([evil]));
    }

    #[test]
    fn nothing_is_loaded_and_nothing_else_runs() {
        let page = html(&tree("app", "f 1"), Labels { title: "app", notes: &[] });
        assert!(page.contains(&format!("content=\"{POLICY}\"")));
        for outside in ["http://", "https://", "//cdn", " src=", " style=", "@import", "url(", " onclick="] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
