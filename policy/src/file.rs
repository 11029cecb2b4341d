//! The policy file of an agent without Kubernetes: the documents that `kubectl apply` takes.

mod reader;

use std::collections::HashMap;

use crate::bounds::validate;
use crate::finding::{Finding, PolicyErrors, Warning};
use crate::selector::{is_dns_label, is_dns_subdomain};
use crate::spec::{
    API_VERSION, ClusterProfilingPolicySpec, ClusterScope, Kind, Metadata, Policy, ProfilingPolicySpec, Spec,
    SpecCore,
};
use crate::yaml::{Node, Value, cut, documents};
use reader::Reader;

/// Size of a policy file, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Documents in a policy file.
pub const MAX_DOCUMENTS: usize = 1000;
/// A file with more errors than this is not a policy file; the rest is counted.
const MAX_ERRORS: usize = 1000;

/// Reads the policies of a file, in its order, which stands for their age.
///
/// # Errors
/// Every error of the file, each with line, field, what is wrong and what to write instead. A place that is
/// no YAML ends the reading; the errors before it are reported too.
pub fn parse_policy_file(text: &str) -> Result<(Vec<Policy>, Vec<Warning>), PolicyErrors> {
    if text.len() > MAX_FILE_BYTES {
        let problem = format!("the file has {} bytes, more than {MAX_FILE_BYTES}", text.len());
        let error = Finding::new("", problem, "write fewer policies: one can select many processes");
        return Err(PolicyErrors(vec![error.at(1)]));
    }
    let (documents, syntax_error) = documents(text);
    if let Some(document) = documents.get(MAX_DOCUMENTS) {
        let problem = format!("the file has more than {MAX_DOCUMENTS} documents");
        let error = Finding::new("", problem, "write fewer policies: one can select many processes");
        return Err(PolicyErrors(vec![error.at(document.line)]));
    }
    let mut errors: Vec<Finding> = syntax_error.into_iter().collect();
    if documents.is_empty() && errors.is_empty() {
        let remedy = format!(
            "write a document with apiVersion: {API_VERSION}, kind: ClusterProfilingPolicy, metadata.name and spec"
        );
        errors.push(Finding::new("", "the file has no policy", remedy).at(1));
    }
    let mut warnings = Vec::new();
    let mut policies = Vec::new();
    let mut seen = HashMap::new();
    for document in &documents {
        let mut reader = Reader::default();
        let policy = read_document(&mut reader, document);
        if let Some((policy, line)) = &policy {
            refuse_duplicate(&mut reader, &mut seen, policy, *line);
        }
        errors.append(&mut reader.errors);
        warnings.append(&mut reader.warnings);
        policies.extend(policy.map(|(policy, _)| policy));
    }
    if errors.is_empty() {
        return Ok((policies, warnings));
    }
    errors.sort_by_key(|error| error.line);
    if errors.len() > MAX_ERRORS {
        let (more, line) = (errors.len() - MAX_ERRORS, errors[MAX_ERRORS].line);
        errors.truncate(MAX_ERRORS);
        let problem = format!("the file has {more} more errors from here on");
        errors.push(Finding::new("", problem, "correct those above first").at(line));
    }
    Err(PolicyErrors(errors))
}

/// The policy and the line of its name; `None` where kind or name are unknown. The reader has the errors.
fn read_document(reader: &mut Reader, document: &Node) -> Option<(Policy, usize)> {
    reader.lines.insert(String::new(), document.line);
    let entries =
        reader.mapping(document, "", "write apiVersion, kind, metadata and spec, each with a colon")?;
    let (mut version, mut kind, mut metadata, mut spec) = (None, None, None, None);
    for entry in entries {
        match entry.key.as_str() {
            "apiVersion" => version = Some(&entry.value),
            "kind" => kind = Some(&entry.value),
            "metadata" => metadata = Some(&entry.value),
            "spec" => spec = Some(&entry.value),
            // Of a policy that was read back from a cluster.
            "status" => {}
            unknown => {
                let known = ["apiVersion", "kind", "metadata", "spec"];
                reader.unknown("", unknown, entry.line, &known);
            }
        }
    }
    check_version(reader, document, version);
    let kind = read_kind(reader, document, kind);
    let (metadata, name_line) = read_metadata(reader, document, metadata, kind);
    // With an unknown kind the fields are still checked, as those of the kind that has them all.
    let spec = read_spec(reader, spec, kind.unwrap_or(Kind::ClusterProfilingPolicy));
    let checked = validate(&spec);
    reader.add(checked);
    match kind {
        Some(_) if !metadata.name.is_empty() => Some((Policy { metadata, spec }, name_line)),
        _ => None,
    }
}

fn check_version(reader: &mut Reader, document: &Node, version: Option<&Node>) {
    let remedy = format!("write apiVersion: {API_VERSION}");
    match version {
        None => reader.error("apiVersion", document.line, "is missing", &remedy),
        Some(node) if node.value == Value::Text(API_VERSION.to_owned()) => {}
        Some(node) => {
            let problem = format!("is {}, not {API_VERSION}", node.value.describe());
            reader.error("apiVersion", node.line, &problem, &remedy);
        }
    }
}

fn read_kind(reader: &mut Reader, document: &Node, kind: Option<&Node>) -> Option<Kind> {
    let remedy = "write ProfilingPolicy or ClusterProfilingPolicy";
    let Some(node) = kind else {
        reader.error("kind", document.line, "is missing", remedy);
        return None;
    };
    let kinds = [Kind::ProfilingPolicy, Kind::ClusterProfilingPolicy];
    let found = kinds.into_iter().find(|kind| node.value == Value::Text(kind.as_str().to_owned()));
    if found.is_none() {
        let problem = format!("is {}, which is no kind of policy", node.value.describe());
        reader.error("kind", node.line, &problem, remedy);
    }
    found
}

/// Fields of `metadata` that Hearth does not read are tolerated: a cluster writes many.
fn read_metadata(
    reader: &mut Reader,
    document: &Node,
    node: Option<&Node>,
    kind: Option<Kind>,
) -> (Metadata, usize) {
    let mut metadata = Metadata::default();
    let remedy = "write a name of lower-case letters, digits, - and .";
    let Some(node) = node else {
        reader.error("metadata.name", document.line, "is missing", remedy);
        return (metadata, document.line);
    };
    let mut name_line = node.line;
    let Some(entries) = reader.mapping(node, "metadata", "write name: and a name below it") else {
        return (metadata, name_line);
    };
    let mut has_name = false;
    for entry in entries {
        let path = format!("metadata.{}", entry.key);
        let value = &entry.value;
        match entry.key.as_str() {
            "name" => {
                (has_name, name_line) = (true, entry.line);
                let name = reader.text(value, &path, remedy).unwrap_or_default();
                if is_dns_subdomain(&name) {
                    metadata.name = name;
                } else if matches!(value.value, Value::Text(_)) {
                    let problem = format!("is {:?}, which cannot be the name of an object", cut(&name));
                    reader.error(&path, entry.line, &problem, remedy);
                }
            }
            "namespace" if value.value != Value::Null => {
                let remedy = "write lower-case letters, digits and -, at most 63";
                let Some(namespace) = reader.text(value, &path, remedy) else { continue };
                if !is_dns_label(&namespace) {
                    let problem =
                        format!("is {:?}, which cannot be the name of a namespace", cut(&namespace));
                    reader.error(&path, entry.line, &problem, remedy);
                }
                metadata.namespace = Some(namespace);
            }
            "labels" => metadata.labels = reader.labels(value, &path),
            "annotations" => metadata.annotations = reader.labels(value, &path),
            "creationTimestamp" if value.value != Value::Null => {
                metadata.creation_timestamp = reader.text(value, &path, "remove it: the cluster sets it");
            }
            _ => {}
        }
    }
    if !has_name {
        reader.error("metadata.name", node.line, "is missing", remedy);
    }
    match kind {
        Some(Kind::ProfilingPolicy) if metadata.namespace.is_none() => {
            metadata.namespace = Some("default".to_owned());
        }
        Some(Kind::ClusterProfilingPolicy) if metadata.namespace.take().is_some() => {
            let problem = "is ignored: a ClusterProfilingPolicy has none";
            reader.warn("metadata.namespace", problem, "remove it, or write kind: ProfilingPolicy");
        }
        _ => {}
    }
    (metadata, name_line)
}

fn read_spec(reader: &mut Reader, node: Option<&Node>, kind: Kind) -> Spec {
    let (mut core, mut scope) = (SpecCore::default(), ClusterScope::default());
    if let Some(node) = node.filter(|node| node.value != Value::Null)
        && let Some(entries) = reader.mapping(node, "spec", "write the fields of the policy below it")
    {
        for entry in entries {
            reader.spec_field(entry, kind, &mut core, &mut scope);
        }
    }
    match kind {
        Kind::ProfilingPolicy => Spec::Namespaced(ProfilingPolicySpec { core, ..Default::default() }),
        Kind::ClusterProfilingPolicy => {
            Spec::Cluster(ClusterProfilingPolicySpec { core, scope, ..Default::default() })
        }
    }
}

type Identity = (Kind, Option<String>, String);

fn refuse_duplicate(reader: &mut Reader, seen: &mut HashMap<Identity, usize>, policy: &Policy, line: usize) {
    let metadata = &policy.metadata;
    let identity = (policy.spec.kind(), metadata.namespace.clone(), metadata.name.clone());
    if let Some(first) = seen.get(&identity) {
        let problem = format!(
            "is {:?}, and the {} {} is already there in line {first}",
            metadata.name,
            policy.spec.kind().as_str(),
            policy.id()
        );
        reader.error("metadata.name", line, &problem, "give one of them another name");
    } else {
        seen.insert(identity, line);
    }
}

#[cfg(test)]
mod tests;
