//! Columns of text.

use std::fmt::Write as _;

use crate::screen::printable;

/// Rows of equally many cells, the first of them the heading.
#[derive(Debug)]
pub(crate) struct Table {
    /// Numbers stand to the right.
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Headings; of those that begin with `>` the column stands to the right.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let headings = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { right, rows: vec![headings] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell).replace('\n', " ")).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// As text; the last column is not padded.
    pub(crate) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let padding = " ".repeat(width - cell.chars().count());
                let _ =
                    if *right { write!(line, "{padding}{cell}") } else { write!(line, "{cell}{padding}") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let mut table = Table::new(&[">CPU", "NAME"]);
        table.row(["1".to_owned(), "é\x1b".to_owned()]);
        table.row(["1000".to_owned(), "b".to_owned()]);
        assert_eq!(table.text(), " CPU  NAME\n   1  é\u{fffd}\n1000  b\n");
    }
}
