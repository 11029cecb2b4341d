//! An interactive flame graph as one SVG file, drawn by inferno.

use std::io;

use inferno::flamegraph::{self, Options};

use super::Labels;
use crate::tree::Tree;

/// Characters that fit in a line of the drawing, which is 1,180 wide: a
/// character of its font takes 7.2.
const LINE_CHARS: usize = 160;
/// From one line of notes to the next.
const LINE_HEIGHT: usize = 17;

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
    options.count_name = "microseconds".to_owned();
    options.hash = true;
    options.flame_chart = true;

    let mut drawn = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut drawn)
        .map_err(SvgError::Draw)?;
    let drawn = String::from_utf8(drawn)
        .map_err(|e| SvgError::Draw(io::Error::new(io::ErrorKind::InvalidData, e)))?;
    let drawn = with_root(&drawn, &tree.names()[tree.root().name as usize]);
    Ok(with_notes(&drawn, labels.notes))
}

/// The notes below the graph, as many lines as they need: inferno's subtitle is
/// one line, and clipped where it is too long.
fn with_notes(drawn: &str, notes: &[String]) -> String {
    let lines: Vec<String> = notes.iter().flat_map(|note| wrapped(note)).collect();
    let height = || {
        let (_, after) = drawn.split_once(" height=\"")?;
        after.split_once('"')?.0.parse::<usize>().ok()
    };
    let (false, Some(height), Some(body)) =
        (lines.is_empty(), height(), drawn.trim_end().strip_suffix("</svg>"))
    else {
        return drawn.to_owned();
    };
    let higher = height + lines.len() * LINE_HEIGHT;
    // The drawing's own height, and its background's.
    let mut taller = body
        .replacen(&format!(" height=\"{height}\""), &format!(" height=\"{higher}\""), 2)
        .replacen(&format!(" {height}\" xmlns"), &format!(" {higher}\" xmlns"), 1);
    for (at, line) in lines.iter().enumerate() {
        let y = height + at * LINE_HEIGHT;
        taller.push_str(&format!("<text class=\"note\" x=\"10\" y=\"{y}\">{}</text>", escaped(line)));
    }
    taller + "</svg>"
}

/// Lines of at most [`LINE_CHARS`], broken between words where there are any.
fn wrapped(note: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in note.split_inclusive(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + word.trim_end().chars().count() > LINE_CHARS {
            lines.push(String::new());
        }
        for c in word.chars() {
            if lines.last().is_some_and(|line| line.chars().count() >= LINE_CHARS) && c != ' ' {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push(c);
            }
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
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
    fn notes_stand_below_the_graph_whole_and_never_clipped() {
        let long = "word ".repeat(40);
        let notes = ["a <note>".to_owned(), long.clone()];
        let plain = draw("a 1");
        let drawn = svg(&tree("app", "a 1"), Labels { title: "app", notes: &notes }).unwrap();
        let lines: Vec<&str> = drawn
            .split("<text class=\"note\"")
            .skip(1)
            .map(|text| text.split_once('>').unwrap().1.split_once("</text>").unwrap().0)
            .collect();
        assert_eq!(lines, ["a &lt;note&gt;", "word ".repeat(32).trim_end(), "word ".repeat(8).trim_end()]);
        let heights = |drawn: &str| -> Vec<usize> {
            let all = drawn.split(" height=\"").skip(1).take(2);
            all.map(|text| text.split_once('"').unwrap().0.parse().unwrap()).collect()
        };
        let (before, after) = (heights(&plain), heights(&drawn));
        assert_eq!(after, before.iter().map(|height| height + 3 * LINE_HEIGHT).collect::<Vec<_>>());
        assert!(drawn.contains(&format!("viewBox=\"0 0 1200 {}\"", after[0])));
        assert!(drawn.ends_with("</svg>"));
    }

    #[test]
    fn a_line_is_broken_between_words() {
        let check = |note: &str, expected: &[&str]| assert_eq!(wrapped(note), expected, "{note}");
        check("", &[]);
        check("one two", &["one two"]);
        let full = "é".repeat(LINE_CHARS);
        check(&full, &[&full]);
        check(&format!("{full} x"), &[&full, "x"]);
        check(&format!("{full}x"), &[&full, "x"]);
        check(&format!("x {full}"), &["x", &full]);
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
