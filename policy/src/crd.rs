//! What the CRDs say beside the types: bounds that the API server checks itself.
//!
//! They are those of [`crate::validate`], so that `kubectl apply` refuses what a policy file refuses.
//! Rules are [CEL](https://kubernetes.io/docs/reference/using-api/cel/). All lists and texts have a
//! greatest size, from which the API server works out what a rule may cost at most.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::bounds::{MAX_CONTAINERS, MAX_SELECTOR_ENTRIES, priority_range};
use crate::spec::{ClusterProfilingPolicy, Kind, ProfilingPolicy};

/// The CRDs of both kinds.
pub fn crds() -> [CustomResourceDefinition; 2] {
    [ProfilingPolicy::crd(), ClusterProfilingPolicy::crd()]
}

/// A CRD as a file of `deploy/crds`: its name and its text.
///
/// # Errors
/// It cannot be written as YAML.
pub fn file(crd: &CustomResourceDefinition) -> Result<(String, String), serde_yaml::Error> {
    let text = format!("# Generated from policy/src by `make generate`.\n{}", serde_yaml::to_string(crd)?);
    Ok((format!("{}.yaml", crd.spec.names.plural), text))
}

const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// `[prefix/]name`: what is before a slash is a DNS subdomain.
const LABEL_KEY: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
    ([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$";
/// Characters of the prefix.
const LABEL_PREFIX_CHARS: u32 = 253;
/// Those of the prefix, the slash, 63 of the name.
const LABEL_KEY_CHARS: u32 = LABEL_PREFIX_CHARS + 1 + 63;

const KEY_MESSAGE: &str = "keys must be [prefix/]name as in kubectl get --show-labels";

/// `javaSymbolFileRefreshDeferInterval`.
pub(crate) fn defer_interval(_: &mut SchemaGenerator) -> Schema {
    let mut schema = interval("5s", "3600s");
    schema.insert("default".to_owned(), json!("600s"));
    schema
}

/// `duration`.
pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    interval("10s", "24h")
}

fn interval(min: &str, max: &str) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^[0-9]{1,5}(s|m|h)$",
        "x-kubernetes-validations": [{
            // A text that is no interval is told by its pattern.
            "rule": format!(
                "!self.matches('^[0-9]{{1,5}}(s|m|h)$') || \
                 (duration(self) >= duration('{min}') && duration(self) <= duration('{max}'))"
            ),
            "message": format!("must be an interval from {min} to {max}, such as 600s"),
        }],
    })
}

/// `containers`.
pub(crate) fn containers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_CONTAINERS,
        "items": {"type": "string", "maxLength": 63, "pattern": DNS_LABEL},
    })
}

/// A label selector: keys and values as Kubernetes takes them, values where the operator needs them.
pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Each label must have exactly this value.",
                "maxProperties": MAX_SELECTOR_ENTRIES,
                "additionalProperties": label_value(),
                "x-kubernetes-validations": [{
                    "rule": format!(
                        "self.all(key, size(key) <= {LABEL_KEY_CHARS} && key.indexOf('/') <= {LABEL_PREFIX_CHARS} \
                         && key.matches('{LABEL_KEY}'))"
                    ),
                    "message": KEY_MESSAGE,
                }],
            },
            "matchExpressions": {
                "type": "array",
                "description": "Requirements with an operator; all of them must hold.",
                "maxItems": MAX_SELECTOR_ENTRIES,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "type": "string", "description": "The label's key.",
                            "maxLength": LABEL_KEY_CHARS, "pattern": LABEL_KEY,
                            "x-kubernetes-validations": [{
                                "rule": format!("self.indexOf('/') <= {LABEL_PREFIX_CHARS}"),
                                "message": KEY_MESSAGE,
                            }],
                        },
                        "operator": {
                            "type": "string", "description": "What must hold for it.",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "type": "array",
                            "description": "One or more with In and NotIn, none with the others.",
                            "maxItems": MAX_SELECTOR_ENTRIES,
                            "items": label_value(),
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "message": "values: In and NotIn need at least one, Exists and DoesNotExist take none",
                    }],
                },
            },
        },
    })
}

fn label_value() -> Value {
    json!({"type": "string", "maxLength": 63, "pattern": LABEL_VALUE})
}

/// A namespace's users stay below what the cluster's operators can say.
pub(crate) fn namespaced_priority(schema: &mut Schema) {
    limit_priority(schema, Kind::ProfilingPolicy);
}

/// See [`namespaced_priority`].
pub(crate) fn cluster_priority(schema: &mut Schema) {
    limit_priority(schema, Kind::ClusterProfilingPolicy);
}

fn limit_priority(schema: &mut Schema, kind: Kind) {
    if let Some(priority) = schema.pointer_mut("/properties/priority").and_then(Value::as_object_mut) {
        // Of an int32 the API server checks that it is a whole number, not that it fits.
        priority.insert("minimum".to_owned(), json!(priority_range(kind).start()));
        priority.insert("maximum".to_owned(), json!(priority_range(kind).end()));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    /// A part of the schema of a kind's spec, as JSON.
    fn property(crd: &CustomResourceDefinition, name: &str) -> Value {
        let crd = serde_json::to_value(crd).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][name]
            .clone()
    }

    #[test]
    fn the_files_are_those_of_these_types() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");
        for crd in crds() {
            let (name, text) = file(&crd).unwrap();
            let written = std::fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
            assert!(text == written, "deploy/crds/{name} is not what the types say: run make generate");
        }
    }

    #[test]
    fn each_kind_has_its_own_greatest_priority() {
        let [namespaced, cluster] = crds();
        assert_eq!(property(&namespaced, "priority")["maximum"], 1000.0);
        assert_eq!(property(&cluster, "priority")["maximum"], 1_000_000.0);
    }

    #[test]
    fn what_is_only_in_the_cluster_kind_is_unknown_in_the_other() {
        let [namespaced, cluster] = crds();
        for name in ["namespaceSelector", "nodeSelector", "hostProcesses"] {
            assert_eq!(property(&namespaced, name), Value::Null, "{name}");
            assert_ne!(property(&cluster, name), Value::Null, "{name}");
        }
    }

    #[test]
    fn a_field_that_is_left_out_reads_as_its_default() {
        let [namespaced, _] = crds();
        for (name, default) in [
            ("frequency", json!(99)),
            ("cpu", json!(0)),
            ("match", json!("comm")),
            ("appService", json!("comm")),
            ("javaSymbolFileRefreshDeferInterval", json!("600s")),
        ] {
            assert_eq!(property(&namespaced, name)["default"], default, "{name}");
        }
        assert_eq!(property(&namespaced, "regex")["default"], Value::Null);
    }
}
