//! The table of results, and the median behind every number in it.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;

/// Rows of the results.
#[derive(Default)]
pub(crate) struct Table(Vec<[String; 6]>);

impl Table {
    /// Adds a row: what, what is to be reached, Hearth's number, the peer's, their ratio, rounds.
    pub(crate) fn row(
        &mut self,
        what: &str,
        reach: &str,
        hearth: &str,
        peer: &str,
        ratio: &str,
        rounds: usize,
    ) {
        eprintln!("{what}: {hearth} | {peer} | {ratio}");
        self.0.push([what, reach, hearth, peer, ratio, &rounds.to_string()].map(str::to_owned));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | reach | hearth | peer | ratio | rounds |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        self.0.iter().try_for_each(|cells| writeln!(f, "| {} |", cells.join(" | ")))
    }
}

/// The middle of the values, or the mean of the two in the middle; `NaN` of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The least and the greatest value.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

const BEGIN: &str = "<!-- results: written by make bench -->";
const END: &str = "<!-- end of results -->";

/// Replaces what stands between the marks in `file` by `text`.
pub(crate) fn write_between_marks(file: &Path, text: &str) -> anyhow::Result<()> {
    let old = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let new = between_marks(&old, text)
        .with_context(|| format!("{} lacks the lines {BEGIN:?} and {END:?}", file.display()))?;
    std::fs::write(file, new).with_context(|| format!("cannot write {}", file.display()))
}

fn between_marks(old: &str, text: &str) -> Option<String> {
    let (head, rest) = old.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{}\n{END}{tail}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(range(&[3.0, 1.0, 2.0]), (1.0, 3.0));
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let old = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(between_marks(&old, "new\n"), Some(format!("before\n{BEGIN}\nnew\n{END}\nafter\n")));
        assert_eq!(between_marks("no marks", "new"), None);
    }
}
