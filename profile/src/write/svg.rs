//! An interactive flame graph as one SVG file, drawn by inferno.

use std::io;

use inferno::flamegraph::{self, Options};

use super::Labels;
use crate::tree::Tree;

/// Characters that fit in a line of the drawing, which is 1,180 wide: a
/// character of its font takes 7.2.
const LINE_CHARS: usize = 160;

/// Why there is no graph.
#[derive(Debug, thiserror::Error)]
pub enum SvgError {
    /// No node has a self value above 0.
    #[error("the profile is empty: there is nothing to draw")]
    Empty,
    /// The drawing failed.
    #[error("drawing the flame graph")]
    Draw(#[source] io::Error),
}

/// Draws the tree, the hottest child first from the left.
///
/// A function has the same colour in every graph. All text is escaped.
///
/// # Errors
/// [`SvgError::Empty`] if there is nothing to draw.
pub fn svg(tree: &Tree, labels: Labels<'_>) -> Result<String, SvgError> {
    let mut lines = Vec::new();
    if tree.root().self_value > 0 {
        lines.push(format!("[self] {}", tree.root().self_value));
    }
    tree.for_each_path(|node, path| {
        if node.self_value > 0 {
            lines.push(format!("{} {}", drawable(path), node.self_value));
        }
    });
    if lines.is_empty() {
        return Err(SvgError::Empty);
    }
    // inferno wants sorted lines, and sorts them itself by default. Its flame
    // chart mode is the one that takes them as they come, last one first.
    lines.reverse();

    let mut options = Options::default();
    options.title = labels.title.to_owned();
    options.subtitle = subtitle(labels.notes);
    options.count_name = "microseconds".to_owned();
    options.hash = true;
    options.flame_chart = true;

    let mut drawn = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut drawn)
        .map_err(SvgError::Draw)?;
    let drawn = String::from_utf8(drawn)
        .map_err(|e| SvgError::Draw(io::Error::new(io::ErrorKind::InvalidData, e)))?;
    Ok(with_root(&drawn, &tree.names()[tree.root().name as usize]))
}

/// The notes in one line. inferno has no place for more, and what is too long
/// would be clipped on both sides.
fn subtitle(notes: &[String]) -> Option<String> {
    let whole = notes.join("; ");
    if whole.chars().count() <= LINE_CHARS {
        return Some(whole).filter(|line| !line.is_empty());
    }
    const REST: &str = " … (the rest is in the JSON format)";
    let kept: String = whole.chars().take(LINE_CHARS - REST.chars().count()).collect();
    Some(format!("{}{REST}", kept.trim_end()))
}

/// inferno calls the root `all`, and gives it alone a share without decimals.
/// Its script takes the label from the title.
fn with_root(drawn: &str, name: &str) -> String {
    let root = drawn.match_indices("<title>all (").find(|(at, _)| {
        let title = drawn[*at..].split_once("</title>").map_or("", |(title, _)| title);
        title.ends_with(", 100%)")
    });
    match root {
        Some((at, found)) => {
            format!("{}<title>{} ({}", &drawn[..at], escaped(name), &drawn[at + found.len()..])
        }
        None => drawn.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // XML has no way to write them.
    text.replace(|c: char| c.is_control(), "?")
}

/// The path so that inferno reads no number out of it: a leaf such as
/// `[t] worker 1` would be taken as one of two counts of a differential graph,
/// and a line that begins with `# ` for a comment. A no-break space looks the same.
fn drawable(path: &str) -> String {
    let mut text = path.to_owned();
    if text.starts_with("# ") {
        text.replace_range(1..2, "\u{a0}");
    }
    if let Some(space) = text.trim_end().rfind(' ') {
        let last = text[space + 1..].trim_end();
        if last.chars().all(|c| c.is_ascii_digit() || c == '.') {
            text.replace_range(space..=space, "\u{a0}");
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::testing::tree;

    fn draw(stacks: &str) -> String {
        svg(&tree("app", stacks), Labels { title: "app", notes: &[] }).unwrap()
    }

    /// Folded stacks in, the boxes' labels from bottom left on out.
    fn check(stacks: &str, expected: &[&str]) {
        let drawn = draw(stacks);
        let mut titles: Vec<&str> =
            drawn.split("<title>").skip(1).map(|t| t.split("</title>").next().unwrap()).collect();
        titles.sort_unstable();
        assert_eq!(titles, expected);
    }

    #[test]
    fn boxes_show_names_and_microseconds() {
        check(
            "a;b 3\na;c 1",
            &[
                "a (4 microseconds, 100.00%)",
                "app (4 microseconds, 100%)",
                "b (3 microseconds, 75.00%)",
                "c (1 microseconds, 25.00%)",
            ],
        );
    }

    #[test]
    fn a_name_that_ends_in_a_number_keeps_it() {
        check(
            "[t] worker 1 5\n[t] worker 2;f 1.5 4\n# x 1",
            &[
                "#\u{a0}x (1 microseconds, 10.00%)",
                "[t] worker 2 (4 microseconds, 40.00%)",
                "[t] worker\u{a0}1 (5 microseconds, 50.00%)",
                "app (10 microseconds, 100%)",
                "f\u{a0}1.5 (4 microseconds, 40.00%)",
            ],
        );
    }

    #[test]
    fn children_are_drawn_in_the_order_of_the_tree() {
        let drawn = draw("z 9\na 1\nm;x 2\nm 3");
        let x = |name: &str| {
            let after = drawn.split(&format!("<title>{name} (")).nth(1).unwrap();
            let x = after.split("x=\"").nth(1).unwrap().split('%').next().unwrap();
            x.parse::<f64>().unwrap()
        };
        assert!(x("z") < x("m") && x("m") < x("a"));
    }

    #[test]
    fn text_is_escaped() {
        let evil = r#"</title><script>alert("x")</script>&"#;
        let graph =
            svg(&tree("app", &format!("{evil} 3")), Labels { title: evil, notes: &[evil.to_owned()] })
                .unwrap();
        assert!(!graph.contains("<script>alert"));
        assert!(graph.contains("&lt;/title&gt;&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;"));
    }

    #[test]
    fn notes_stand_in_one_line_that_is_never_clipped() {
        let check = |notes: &[&str], expected: Option<&str>| {
            let notes: Vec<String> = notes.iter().map(|&note| note.to_owned()).collect();
            let line = subtitle(&notes);
            assert!(line.as_ref().is_none_or(|line| line.chars().count() <= LINE_CHARS), "{line:?}");
            assert_eq!(line.as_deref(), expected);
        };
        check(&[], None);
        check(&["one", "two"], Some("one; two"));
        let long = "é".repeat(LINE_CHARS);
        check(&[&long], Some(&long));
        let cut = format!("{} … (the rest is in the JSON format)", "é".repeat(LINE_CHARS - 35));
        check(&[&long, "two"], Some(&cut));
    }

    #[test]
    fn the_root_has_its_name_whatever_it_is() {
        let titles = |name: &str, stacks: &str| {
            let drawn = svg(&tree(name, stacks), Labels { title: "", notes: &[] }).unwrap();
            let titles = drawn.split("<title>").skip(1);
            titles.map(|t| t.split_once("</title>").unwrap().0.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            titles("<a&b>\u{1}", "all 1"),
            ["&lt;a&amp;b&gt;? (1 microseconds, 100%)", "all (1 microseconds, 100.00%)"]
        );
        assert_eq!(titles("all", "x 1")[0], "all (1 microseconds, 100%)");
    }

    #[test]
    fn the_same_tree_is_drawn_the_same() {
        assert_eq!(draw("a;b 3\na;c 1"), draw("a;c 1\na;b 3"));
    }

    #[test]
    fn nothing_is_an_error() {
        let empty = svg(&tree("app", "a 0"), Labels { title: "", notes: &[] });
        assert_eq!(empty.unwrap_err().to_string(), "the profile is empty: there is nothing to draw");
    }
}
