//! Statements, and the one place that names the tables they ask.
//!
//! A [`Statement`] is made here and nowhere else, from a table and the reader's [`Scope`]. The scope, and what the
//! collector itself adds to it, stand in PREWHERE: what a reader writes is evaluated for rows of the reader alone, so
//! that neither an error nor the time it takes tells of any other. `stacks` says of no row whose it is: of it only
//! the stacks are asked that rows name which the reader may see.

pub(super) mod table;

use super::scope::Scope;
use table::Branch;

/// A statement and what is bound to its placeholders, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    sql: String,
    values: Vec<Value>,
}

/// A bound value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Int(i64),
}

/// A part of a statement, with what is bound in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sql {
    text: String,
    values: Vec<Value>,
}

/// Which rows of a table are meant, of those that the reader may see.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// What the collector says: never empty.
    pub own: Sql,
    /// What the reader says, or what is dear to find out.
    pub more: Vec<Sql>,
}

impl Statement {
    /// Some columns of the rows of one table.
    pub(super) fn of_rows(columns: Sql, branch: &Branch<'_>, condition: Condition, tail: &str) -> Self {
        Self::of_table(columns, branch.name(), branch.scope.of_rows(), condition, tail)
    }

    /// Some columns of what agents lost. It is known of whole nodes: whoever may see some pods alone is told what was
    /// lost where these are: on what `nodes` finds.
    pub(super) fn of_losses(
        columns: &str,
        scope: &Scope,
        mut condition: Condition,
        nodes: impl FnOnce() -> Statement,
        tail: &str,
    ) -> Self {
        if !scope.has_nodes() {
            condition.own = condition.own.and(&nodes().has("(pod_cluster, pod_node)"));
        }
        Self::of_table(Sql::from(columns), "profile.losses", scope.of_cluster(), condition, tail)
    }

    /// Some columns of the stacks of an app of which `ids` finds the ids, or of those of them that hold `text`.
    pub(super) fn of_stacks(
        columns: &str,
        app_service: &str,
        ids: Statement,
        text: Option<&str>,
        tail: &str,
    ) -> Self {
        let own = Sql::about("app_service = ?", app_service).and(&ids.has("stack_id"));
        let text = text.map(|text| Sql::about("position(frames, ?) != 0", text));
        let condition = Condition { own, more: text.into_iter().collect() };
        Self::of_table(Sql::from(columns), "profile.stacks AS s", None, condition, tail)
    }

    /// Some columns of what others find together.
    pub(super) fn of_all(columns: &str, parts: Vec<Statement>, tail: &str) -> Self {
        let mut values = Vec::new();
        let parts: Vec<String> = parts.into_iter().map(|part| part.write(&mut values)).collect();
        let sql = format!("SELECT {columns}\nFROM (\n{}\n){tail}", parts.join("\nUNION ALL\n"));
        Self { sql, values }
    }

    /// This one and what follows it: ORDER BY, LIMIT, SETTINGS.
    pub(super) fn then(mut self, tail: &str) -> Self {
        self.sql.push_str(tail);
        self
    }

    /// The condition that these columns of a row are what this statement finds.
    pub(super) fn has(self, columns: &str) -> Sql {
        Sql { text: format!("{columns} IN ({})", self.sql), values: self.values }
    }

    fn of_table(columns: Sql, table: &str, scope: Option<Sql>, condition: Condition, tail: &str) -> Self {
        let mut values = Vec::new();
        let columns = columns.write(&mut values);
        let Condition { own, more } = condition;
        let own = match &scope {
            Some(scope) => scope.clone().and(&own),
            None => own,
        };
        let own = own.write(&mut values);
        let more: Vec<String> = more.into_iter().map(|more| more.write(&mut values)).collect();
        let more = more.join(" AND ");
        let which = match (scope.is_some(), more.is_empty()) {
            (false, true) => format!("WHERE {own}"),
            (false, false) => format!("WHERE {own} AND {more}"),
            (true, true) => format!("PREWHERE {own}"),
            (true, false) => format!("PREWHERE {own}\nWHERE {more}"),
        };
        Self { sql: format!("SELECT {columns}\nFROM {table}\n{which}{tail}"), values }
    }

    /// Its text, with a `?` for each of its [`values`](Self::values).
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// What is bound in it.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    pub(super) fn write(self, values: &mut Vec<Value>) -> String {
        values.extend(self.values);
        self.sql
    }
}

impl Sql {
    /// What `write` writes, which hands over what is bound in it.
    pub(super) fn of(write: impl FnOnce(&mut Vec<Value>) -> String) -> Self {
        let mut values = Vec::new();
        Self { text: write(&mut values), values }
    }

    /// A condition with one `?`, which stands for `value`.
    pub(super) fn about(text: &str, value: &str) -> Self {
        Self { text: text.to_owned(), values: vec![Value::Text(value.to_owned())] }
    }

    /// Both conditions.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.text = format!("{} AND {}", self.text, other.text);
        self.values.extend_from_slice(&other.values);
        self
    }

    /// Its text, for a longer one whose values are these.
    pub(super) fn write(self, values: &mut Vec<Value>) -> String {
        values.extend(self.values);
        self.text
    }
}

impl From<&str> for Sql {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), values: Vec::new() }
    }
}
