//! The answer of DeepFlow from 6.6 on: functions once, nodes by index.

use serde::Serialize;

use crate::frame;
use crate::tree::Tree;

/// A tree as DeepFlow 6.6 answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Columns {
    /// Names; the root's is first and stands for the root alone.
    pub functions: Vec<String>,
    /// For each function: `H` all processes of a host (`Total`), `P` process,
    /// `T` thread, `K` kernel, `C` CUDA, `L` library, `?` not named, `A` application.
    pub function_types: Vec<&'static str>,
    /// Microseconds for each function. Unlike DeepFlow's, the total counts a
    /// recursive function once.
    pub function_values: Table<2>,
    /// The nodes, the root first, each after its parent.
    pub node_values: Table<4>,
}

/// Rows of numbers under column names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table<const N: usize> {
    /// Name of each column.
    #[serde(serialize_with = "as_list")]
    pub columns: [&'static str; N],
    /// The rows.
    #[serde(serialize_with = "as_lists")]
    pub values: Vec<[i64; N]>,
}

/// The tree in columns.
pub fn columns(tree: &Tree) -> Columns {
    let functions = tree.names().to_vec();
    let function_types =
        functions.iter().enumerate().map(|(index, name)| function_type(index, name)).collect();
    let function_values = Table {
        columns: ["self_value", "total_value"],
        values: tree.functions().iter().map(|f| [f.self_value, f.total]).collect(),
    };
    let node_values = Table {
        columns: ["function_id", "parent_node_id", "self_value", "total_value"],
        values: tree
            .nodes()
            .iter()
            .map(|n| [i64::from(n.name), n.parent.map_or(-1, i64::from), n.self_value, n.total])
            .collect(),
    };
    Columns { functions, function_types, function_values, node_values }
}

/// The letter of the kind of function that is called so.
pub(super) fn function_type(index: usize, name: &str) -> &'static str {
    match index {
        0 if name == "Total" => "H",
        0 => "P",
        _ if name.starts_with("[c] ") => "C",
        _ if name.starts_with(frame::KERNEL) => "K",
        _ if name.starts_with(frame::LIBRARY) => "L",
        _ if name.starts_with(frame::PROCESS) => "P",
        _ if name.starts_with(frame::THREAD) => "T",
        _ if name.starts_with('[') => "?",
        _ => "A",
    }
}

// serde knows arrays of fixed sizes only.
fn as_list<S: serde::Serializer, const N: usize>(list: &[&str; N], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(list)
}

fn as_lists<S: serde::Serializer, const N: usize>(rows: &[[i64; N]], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(rows.iter().map(|row| row.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    fn check(root: &str, stacks: &str, expected: &str) {
        let json = serde_json::to_string(&columns(&tree(root, stacks))).expect("plain data");
        assert_eq!(json, expected);
    }

    #[test]
    fn nodes_point_to_functions_and_parents() {
        check(
            "app",
            "[t] app;f;f 3\n[t] app;g;[k] read 2",
            concat!(
                r#"{"functions":["app","[t] app","f","g","[k] read"],"#,
                r#""function_types":["P","T","A","A","K"],"#,
                r#""function_values":{"columns":["self_value","total_value"],"#,
                r#""values":[[0,5],[0,5],[3,3],[0,2],[2,2]]},"#,
                r#""node_values":{"columns":["function_id","parent_node_id","self_value","total_value"],"#,
                r#""values":[[0,-1,0,5],[1,0,0,5],[2,1,0,3],[2,2,3,3],[3,1,0,2],[4,4,2,2]]}}"#,
            ),
        );
    }

    #[test]
    fn each_kind_of_function_has_its_letter() {
        for (index, name, letter) in [
            (0, "Total", "H"),
            (0, "[k] x", "P"),
            (1, "Total", "A"),
            (1, "[p] x", "P"),
            (1, "[t] x", "T"),
            (1, "[k] x", "K"),
            (1, "[l] x", "L"),
            (1, "[c] x", "C"),
            (1, "[unknown] 0x0000000000000001", "?"),
            (1, "[/lib/ld-musl-x86_64.so.1]", "?"),
            (1, "[k]x", "?"),
            (1, "main", "A"),
        ] {
            assert_eq!(function_type(index, name), letter, "{index} {name}");
        }
    }
}
