//! From Pod objects as the API server sends them to the tags of rows.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};

use super::*;
use crate::pods::{Namespace, Object, PodObject, Service, Wants};

fn pod(object: Value) -> Pod {
    serde_json::from_value::<PodObject>(object).unwrap().pod
}

fn metadata(more: Value) -> Value {
    let mut metadata =
        json!({"name": "web-7d9f6bfbd-x2x", "namespace": "shop", "uid": "u-1", "resourceVersion": "5"});
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    metadata
}

fn owned_by(kind: &str, name: &str, labels: Value) -> Pod {
    let owner = json!({"kind": kind, "name": name, "apiVersion": "v", "uid": "o", "controller": true});
    pod(json!({"metadata": metadata(json!({"labels": labels, "ownerReferences": [owner]}))}))
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn shop(services: &[(&str, &[(&str, &str)])]) -> Directory {
    let service = |(name, selector): &(&str, &[(&str, &str)])| Service {
        name: (*name).into(),
        selector: labels(selector),
    };
    let namespace = Namespace { services: services.iter().map(service).collect(), ..Namespace::default() };
    Directory { namespaces: [("shop".into(), namespace)].into(), ..Directory::default() }
}

#[test]
fn all_of_a_pod_that_matters_is_read_and_nothing_else_is_needed() {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": metadata(json!({
            "labels": {"app": "web", "pod-template-hash": "7d9f6bfbd"},
            "annotations": {"kubernetes.io/config.seen": "2026-11-25T20:00:00Z", "big": "x"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-7d9f6bfbd", "controller": true}],
            "managedFields": [{"fieldsV1": {"f:metadata": {}}}],
        })),
        "spec": {"containers": [{"name": "app", "image": "x"}], "nodeName": "n1"},
        "status": {
            "phase": "Running", "podIP": "10.244.1.7", "podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd00::7"}],
            "containerStatuses": [
                {"name": "app", "containerID": "containerd://aa", "restartCount": 1,
                 "lastState": {"terminated": {"containerID": "containerd://a0", "exitCode": 1}}},
                {"name": "starting", "state": {"waiting": {"reason": "ContainerCreating"}}},
                {"name": "odd", "containerID": ""},
            ],
            "initContainerStatuses": [{"name": "sidecar", "containerID": "cri-o://bb", "lastState": {}}],
            "ephemeralContainerStatuses": [{"name": "debugger", "containerID": "docker://cc"}],
        },
    });
    let pod = pod(object);
    let containers = [("aa", "app"), ("a0", "app"), ("bb", "sidecar"), ("cc", "debugger")];
    let expected = Pod {
        uid: "u-1".into(),
        namespace: "shop".into(),
        name: "web-7d9f6bfbd-x2x".into(),
        labels: labels(&[("app", "web"), ("pod-template-hash", "7d9f6bfbd")]),
        owner: Some(Owner { kind: "ReplicaSet".into(), name: "web-7d9f6bfbd".into() }),
        ip: "10.244.1.7".into(),
        containers: containers.map(|(id, name)| (id.into(), name.into())).to_vec(),
    };
    assert_eq!(pod, expected);
    assert_eq!(pod.container("bb").map(|name| &**name), Some("sidecar"));
    assert_eq!(pod.container("zz"), None);
}

#[test]
fn a_static_pod_is_known_by_the_hash_of_its_manifest_and_has_no_workload() {
    let hash = "b53dfa9e2dc9b890f7fadb2770857b03";
    let annotations = json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash});
    let node = json!([{"kind": "Node", "name": "n1", "controller": true}]);
    let mirror =
        pod(json!({"metadata": metadata(json!({"annotations": annotations, "ownerReferences": node}))}));
    assert_eq!((&*mirror.uid, &mirror.owner), (hash, &None));
    // Other pods have the one annotation too, and none takes the place of a pod of the API server's.
    let other = "0ec90011-b5ae-4efc-8a54-d9fc34119605";
    for annotations in [
        json!({"kubernetes.io/config.hash": hash}),
        json!({"kubernetes.io/config.hash": other, "kubernetes.io/config.mirror": other}),
    ] {
        assert_eq!(&*pod(json!({"metadata": metadata(json!({"annotations": annotations}))})).uid, "u-1");
    }
}

#[test]
fn a_pod_without_a_name_or_uid_is_an_error_and_one_without_status_is_not() {
    let refused = serde_json::from_value::<PodObject>(json!({"metadata": {"namespace": "shop", "uid": "u"}}));
    assert!(refused.unwrap_err().to_string().contains("missing field `name`"));
    let bare = pod(json!({"metadata": metadata(json!({"labels": null}))}));
    assert_eq!((bare.ip.as_str(), bare.containers.len(), bare.labels.len()), ("", 0, 0));
}

#[test]
fn of_a_pod_with_too_many_labels_or_containers_so_many_are_kept() {
    let labels: serde_json::Map<_, _> = (0..10_000).map(|n| (format!("l{n}"), json!("x"))).collect();
    let containers: Vec<_> =
        (0..10_000).map(|n| json!({"name": "x", "containerID": format!("r://{n}")})).collect();
    let pod = pod(
        json!({"metadata": metadata(json!({"labels": labels})), "status": {"containerStatuses": containers}}),
    );
    assert_eq!((pod.labels.len(), pod.containers.len()), (256, 256));
    let all = LabelFilter::parse("*").unwrap();
    assert_eq!(pod.tags(&Directory::default(), &all).labels.len(), MAX_LABELS);
}

/// The workload of a pod with this owner and these labels, where `Job backup-28` is known to be a
/// CronJob's and `ReplicaSet odd-abc` a Rollout's.
#[test]
fn the_workload_is_what_is_above_the_owner() {
    let known = |kind: &str, name: &str, above: &str| {
        let object = Object { namespace: "shop".into(), kind: kind.into(), name: name.into() };
        (object, Owner { kind: above.into(), name: format!("above-{name}") })
    };
    let directory = Directory {
        workloads: [known("Job", "backup-28", "CronJob"), known("ReplicaSet", "odd-abc", "Rollout")].into(),
        ..Directory::default()
    };
    let hash = json!({"pod-template-hash": "abc"});
    for (kind, name, labels, expected) in [
        ("Job", "backup-28", json!({}), "CronJob above-backup-28"),
        ("ReplicaSet", "odd-abc", hash.clone(), "Rollout above-odd-abc"),
        // Not known yet.
        ("Job", "once", json!({}), "Job once"),
        ("ReplicaSet", "web-abc", hash.clone(), "Deployment web"),
        // Nobody's.
        ("ReplicaSet", "web-abc", json!({}), "ReplicaSet web-abc"),
        ("ReplicaSet", "-abc", hash.clone(), "ReplicaSet -abc"),
        ("ReplicaSet", "web-xyz", hash.clone(), "ReplicaSet web-xyz"),
        ("StatefulSet", "db-abc", hash, "StatefulSet db-abc"),
        ("DaemonSet", "agent", json!({}), "DaemonSet agent"),
    ] {
        let tags = owned_by(kind, name, labels).tags(&directory, &LabelFilter::default());
        assert_eq!(format!("{} {}", tags.workload_kind, tags.workload), expected, "{kind} {name}");
    }
    let by_hand = pod(
        json!({"metadata": metadata(json!({"ownerReferences": [{"kind": "X", "name": "no controller"}]}))}),
    );
    assert_eq!(&*by_hand.tags(&directory, &LabelFilter::default()).workload, "");
}

#[test]
fn a_service_is_one_that_selects_the_pod_the_first_by_name() {
    let pod = owned_by("DaemonSet", "d", json!({"app": "web", "tier": "front"}));
    let service = |services| pod.tags(&shop(services), &LabelFilter::default()).service.to_string();
    assert_eq!(service(&[("web", &[("app", "web")]), ("api", &[("app", "web"), ("tier", "front")])]), "api");
    assert_eq!(service(&[("web", &[("app", "web"), ("tier", "back")])]), "");
    assert_eq!(service(&[("all", &[])]), "", "a Service without a selector selects nothing");
    let elsewhere = Directory {
        namespaces: [("other".into(), shop(&[("web", &[("app", "web")])]).namespaces["shop"].clone())].into(),
        ..Directory::default()
    };
    assert_eq!(&*pod.tags(&elsewhere, &LabelFilter::default()).service, "");
}

#[test]
fn rows_carry_the_labels_that_were_asked_for() {
    let pod = owned_by(
        "DaemonSet",
        "d",
        json!({
            "app": "web", "app.kubernetes.io/name": "shop-web", "app.kubernetes.io/part-of": "", "application": "x", "team": "a",
        }),
    );
    let kept = |filter: &str| {
        let tags = pod.tags(&Directory::default(), &LabelFilter::parse(filter).unwrap());
        tags.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kept(DEFAULT_LABELS), "app=web app.kubernetes.io/name=shop-web");
    assert_eq!(kept(" team , app* "), "app=web app.kubernetes.io/name=shop-web application=x team=a");
    assert_eq!(kept(""), "");
    for bad in ["app,", ",", "a*b", "a b"] {
        assert!(LabelFilter::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn rows_tell_replica_sets_and_jobs_by_default() {
    for (kind, label) in [("ReplicaSet", "pod-template-hash"), ("Job", "batch.kubernetes.io/job-name")] {
        let pod = owned_by(kind, "x-abc", json!({label: "abc"}));
        let labels = pod.tags(&Directory::default(), &LabelFilter::default()).labels;
        assert_eq!(labels, [(label.into(), "abc".into())], "{kind}");
    }
}

#[test]
fn what_the_operator_is_asked_for_is_what_the_pods_name() {
    let pods = [
        owned_by("ReplicaSet", "web-abc", json!({})),
        owned_by("ReplicaSet", "web-abc", json!({})),
        owned_by("Job", "backup", json!({})),
        owned_by("DaemonSet", "agent", json!({})),
    ];
    let wants = Wants::of(pods.iter().map(|pod| (pod.namespace.as_str(), pod.owner.as_ref())));
    assert_eq!(wants.namespaces.iter().collect::<Vec<_>>(), ["shop"]);
    let owners: Vec<_> = wants.owners.iter().map(|owner| format!("{} {}", owner.kind, owner.name)).collect();
    assert_eq!(owners, ["Job backup", "ReplicaSet web-abc"]);
    let wire = hearth_proto::config::v1::Wants::from(wants);
    assert_eq!((wire.namespaces.len(), wire.owners.len()), (1, 2));
}
