//! An interactive flame graph as one SVG file, drawn by inferno.

use std::io;

use inferno::flamegraph::{self, Options};

use super::Labels;
use super::markup::escape;
use crate::tree::Tree;

/// Characters that fit in a line of the drawing, which is 1,180 wide: a
/// character of its font takes 7.2.
const LINE_CHARS: usize = 160;
/// Characters of a title that fit between inferno's two buttons; one takes 10.2.
const TITLE_CHARS: usize = 96;
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

/// A drawn flame graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawing {
    /// The file.
    pub svg: String,
    /// What stands below the graph: the notes that were given, and what the drawing leaves out.
    pub notes: Vec<String>,
}

/// Draws the tree, the hottest child first from the left.
///
/// A function has the same colour in every graph. All text is escaped. What is
/// too narrow is not drawn, and a note says how much that is.
///
/// # Errors
/// [`SvgError::Empty`] if there is nothing to draw.
pub fn svg(tree: &Tree, labels: Labels<'_>) -> Result<Drawing, SvgError> {
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
    options.title = cut(labels.title);
    options.count_name = "microseconds".to_owned();
    options.hash = true;
    options.flame_chart = true;

    let mut drawn = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut drawn)
        .map_err(SvgError::Draw)?;
    let drawn = String::from_utf8(drawn)
        .map_err(|e| SvgError::Draw(io::Error::new(io::ErrorKind::InvalidData, e)))?;
    let drawn = with_root(&drawn, &tree.names()[tree.root().name as usize]);
    let mut notes = labels.notes.to_vec();
    notes.extend(left_out(tree, options.min_width));
    let whole = Some(labels.title.to_owned()).filter(|title| title.chars().count() > TITLE_CHARS);
    let below: Vec<String> = whole.into_iter().chain(notes.iter().cloned()).collect();
    Ok(Drawing { svg: with_notes(&drawn, &below), notes })
}

/// A drawing that says why there is nothing to draw.
pub fn empty(labels: Labels<'_>) -> String {
    let title = wrapped(labels.title);
    let reasons = labels.notes.iter().flat_map(|note| note.split("; ")).flat_map(wrapped);
    let lines = title.iter().map(|line| (line.clone(), "bold")).chain(reasons.map(|line| (line, "normal")));
    let mut y = 16;
    let text: String = lines
        .map(|(line, weight)| {
            y += LINE_HEIGHT;
            format!("<text x=\"10\" y=\"{y}\" font-weight=\"{weight}\">{}</text>", escaped(&line))
        })
        .collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1200\" height=\"{}\" \
         font-family=\"monospace\" font-size=\"12\"><title>{}</title>\
         <rect width=\"100%\" height=\"100%\" fill=\"#f8f8f8\"/>{text}</svg>",
        y + LINE_HEIGHT,
        escaped(labels.title),
    )
}

/// What inferno does not draw, as a note: frames below `min_width` percent of
/// the whole, which neither its zoom nor its search bring back.
fn left_out(tree: &Tree, min_width: f64) -> Option<String> {
    let root = tree.root();
    // As inferno computes it, so that both agree on every frame.
    let least = min_width / (100.0 / root.total as f64);
    let narrow = |value: i64| value > 0 && (value as f64) < least;
    let (mut frames, mut time) = (0_usize, 0_i64);
    if narrow(root.self_value) {
        (frames, time) = (1, root.self_value);
    }
    for node in tree.nodes() {
        let Some(parent) = node.parent.filter(|_| narrow(node.total)) else { continue };
        frames += 1;
        // The time of a frame below one that is left out is in that one's.
        if !narrow(tree.nodes()[parent as usize].total) {
            time += node.total;
        }
    }
    let share = match 100.0 * time as f64 / root.total as f64 {
        share if share < 0.1 => "less than 0.1 %".to_owned(),
        share if share > 99.9 && time < root.total => "more than 99.9 %".to_owned(),
        share => format!("{share:.1} %"),
    };
    let (what, are) = if frames == 1 { ("frame", "is") } else { ("frames", "are") };
    (frames > 0).then(|| {
        format!("{frames} {what}, {share} of the time, {are} too narrow to be drawn; html and json have all")
    })
}

/// The title on one line. Where it is cut, it stands whole below the graph.
fn cut(title: &str) -> String {
    let title = without_controls(title);
    if title.chars().count() <= TITLE_CHARS {
        return title;
    }
    title.chars().take(TITLE_CHARS - 1).chain(['…']).collect()
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
    without_controls(&escape(text))
}

/// XML has no way to write them.
fn without_controls(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "?")
}

/// The path so that inferno reads nothing out of it: a leaf such as
/// `[t] worker 1` would be taken as one of two counts of a differential graph,
/// and a line that begins with `# ` for a comment. A no-break space looks the same.
/// A frame that ends in an annotation, as `f_[k]` does, would lose it: a word
/// joiner, which has no width, then stands at its end.
fn drawable(path: &str) -> String {
    let mut text = if path.contains("_[") {
        let frames = path.split(';').map(|frame| {
            let annotated = ["_[k]", "_[w]", "_[i]", "_[j]"].iter().any(|end| frame.ends_with(end));
            format!("{frame}{}", if annotated { "\u{2060}" } else { "" })
        });
        frames.collect::<Vec<_>>().join(";")
    } else {
        path.to_owned()
    };
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
        svg(&tree("app", stacks), Labels { title: "app", notes: &[] }).unwrap().svg
    }

    /// The lines below the graph.
    fn below(drawn: &str) -> Vec<&str> {
        let notes = drawn.split("<text class=\"note\"").skip(1);
        notes.map(|text| text.split_once('>').unwrap().1.split_once("</text>").unwrap().0).collect()
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
    fn a_name_that_ends_in_an_annotation_keeps_it() {
        check(
            "[t] a_[k];f_[j] 1\n[t] a_[k];g_[i];h_[w] 2\n_[x]_[k]; _[kw] 3",
            &[
                " _[kw] (3 microseconds, 50.00%)",
                "[t] a_[k]\u{2060} (3 microseconds, 50.00%)",
                "_[x]_[k]\u{2060} (3 microseconds, 50.00%)",
                "app (6 microseconds, 100%)",
                "f_[j]\u{2060} (1 microseconds, 16.67%)",
                "g_[i]\u{2060} (2 microseconds, 33.33%)",
                "h_[w]\u{2060} (2 microseconds, 33.33%)",
            ],
        );
    }

    /// Folded stacks in, the note on what is left out; with the frames that are
    /// drawn it makes all of them.
    fn check_left_out(stacks: &str, expected: &[&str]) {
        let tree = tree("app", stacks);
        let given = ["first".to_owned()];
        let Drawing { svg, notes } = svg(&tree, Labels { title: "app", notes: &given }).unwrap();
        assert_eq!(notes, [&["first"][..], expected].concat());
        assert_eq!(below(&svg), notes);
        let count = expected.first().map_or(0, |note| note.split_once(' ').unwrap().0.parse().unwrap());
        let own = usize::from(tree.root().self_value > 0);
        assert_eq!(svg.matches("<title>").count() + count, tree.nodes().len() + own);
    }

    #[test]
    fn what_is_too_narrow_to_be_drawn_is_said() {
        check_left_out("a;b 3\na;c 1", &[]);
        let leaves: String = (0..20_000).map(|leaf| format!("a;b;leaf{leaf} 7\n")).collect();
        check_left_out(
            &leaves,
            &["20000 frames, 100.0 % of the time, are too narrow to be drawn; html and json have all"],
        );
        check_left_out(
            &format!("{leaves}a 1"),
            &[
                "20000 frames, more than 99.9 % of the time, are too narrow to be drawn; html and json have all",
            ],
        );
        // As wide as the limit is drawn; what lies in a narrow frame counts as a frame, and its time once.
        check_left_out(
            "a;b 99980001\na;c 10000\na;d;e 9999",
            &["2 frames, less than 0.1 % of the time, are too narrow to be drawn; html and json have all"],
        );
        check_left_out("a 99990000\nb 10000", &[]);
        let mut own = crate::tree::TreeBuilder::new("app");
        own.add(["a"], 1_000_000);
        own.add(std::iter::empty::<&str>(), 5);
        let Drawing { svg, notes } = svg(&own.finish(), Labels { title: "", notes: &[] }).unwrap();
        assert!(!svg.contains("[self]"));
        assert_eq!(
            notes,
            ["1 frame, less than 0.1 % of the time, is too narrow to be drawn; html and json have all"]
        );
    }

    #[test]
    fn a_title_that_is_too_long_stands_whole_below_the_graph() {
        let draw = |title: &str| svg(&tree("app", "a 1"), Labels { title, notes: &[] }).unwrap();
        let fits = "é".repeat(TITLE_CHARS);
        let drawn = draw(&fits);
        assert!(drawn.svg.contains(&format!(">{fits}</text>")));
        assert_eq!(below(&drawn.svg), Vec::<&str>::new());
        let long = format!("{fits}<\u{1}");
        let drawn = draw(&long);
        assert!(drawn.svg.contains(&format!(">{}…</text>", "é".repeat(TITLE_CHARS - 1))));
        assert_eq!(below(&drawn.svg), [format!("{fits}&lt;?")]);
        assert_eq!(drawn.notes, Vec::<String>::new());
        assert!(draw("a\u{1}<b").svg.contains(">a?&lt;b</text>"));
    }

    #[test]
    fn a_reason_is_drawn_whole_and_escaped() {
        let long = "word ".repeat(40);
        let svg = empty(Labels { title: &format!("<t> {long}"), notes: &["a & b; c\u{1}".to_owned()] });
        assert!(svg.contains("<title>&lt;t&gt; word"));
        assert!(svg.contains(">a &amp; b</text>") && svg.contains(">c?</text>"));
        assert_eq!(svg.matches("bold").count(), 2);
        assert!(svg.contains(" height=\"101\"") && svg.contains(" y=\"84\""), "{svg}");
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
                .unwrap()
                .svg;
        assert!(!graph.contains("<script>alert"));
        assert!(graph.contains("&lt;/title&gt;&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;"));
    }

    #[test]
    fn notes_stand_below_the_graph_whole_and_never_clipped() {
        let long = "word ".repeat(40);
        let notes = ["a <note>".to_owned(), long.clone()];
        let plain = draw("a 1");
        let drawn = svg(&tree("app", "a 1"), Labels { title: "app", notes: &notes }).unwrap().svg;
        assert_eq!(
            below(&drawn),
            ["a &lt;note&gt;", "word ".repeat(32).trim_end(), "word ".repeat(8).trim_end()]
        );
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
            let drawn = svg(&tree(name, stacks), Labels { title: "", notes: &[] }).unwrap().svg;
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
