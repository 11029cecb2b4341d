//! The chart's life on a cluster: installed, upgraded, uninstalled, installed again under another name.

use hearth_e2e::Cluster;
use hearth_e2e::cluster::text;
use hearth_e2e::daemon::wait_for;
use hearth_e2e::hearth::build_images;
use hearth_e2e::helm::{CHART, Helm};
use libtest_mimic::Trial;

use crate::on_cluster;

const KINDS: [&str; 2] =
    ["profilingpolicies.profiling.hearth.dev", "clusterprofilingpolicies.profiling.hearth.dev"];
const API_SERVICE: &str = "v1alpha1.query.hearth.dev";
/// The namespace of the user's policy.
const USERS: &str = "default";

pub(crate) fn tests() -> Vec<Trial> {
    vec![on_cluster("chart::a_release_leaves_kinds_and_policies_to_the_next", |cluster| {
        build_images(cluster);
        // Whatever becomes of the test: those after it find a cluster without Hearth.
        let life = Life { cluster, helm: Helm::of(cluster) };
        life.a_fresh_install_works();
        let policy = life.a_policy_is_ready();
        life.an_upgrade_leaves_alone_what_the_operator_keeps(&policy);
        life.an_uninstall_leaves_kinds_and_policies(&policy);
        life.another_release_uses_the_kinds_as_they_are(&policy);
        life.kinds_of_another_version_are_taken_over_when_told_to(&policy);
    })]
}

/// A release, by its name and its namespace.
struct Release {
    name: &'static str,
    namespace: &'static str,
    /// What its objects' names begin with.
    fullname: &'static str,
}

const FIRST: Release = Release { name: "profiler", namespace: "chart-first", fullname: "profiler-hearth" };
const SECOND: Release = Release { name: "hearth-again", namespace: "chart-second", fullname: "hearth-again" };

/// What the test images are called, and a small volume. Where a claim of 20 GiB looks, this one does not fit.
const VALUES: [&str; 6] =
    ["--set", "registry=kc.local", "--set", "tag=test", "--set", "clickhouse.embedded.size=1Gi"];

struct Life<'a> {
    cluster: &'a Cluster,
    helm: Helm<'a>,
}

impl Life<'_> {
    fn a_fresh_install_works(&self) {
        self.install(&FIRST);
        let condition = "--for=condition=Available";
        self.cluster.kubectl(&["wait", condition, "--timeout=60s", "apiservice", API_SERVICE]);
        let resources = self.cluster.kubectl(&["get", "--raw", "/apis/query.hearth.dev/v1alpha1"]);
        assert!(resources.contains("\"profiles\""), "{resources}");
        for kind in KINDS {
            assert_eq!(self.owner_of(kind), FIRST.name);
        }
    }

    /// The user's policy by its UID.
    fn a_policy_is_ready(&self) -> String {
        self.cluster.apply(&format!(
            "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ProfilingPolicy\n\
             metadata: {{name: kept, namespace: {USERS}}}\nspec: {{regex: '^nginx'}}\n"
        ));
        self.policy_is_followed(99);
        self.policy()
    }

    fn an_upgrade_leaves_alone_what_the_operator_keeps(&self, policy: &str) {
        let kept = || {
            let secret = format!("{}-operator-ca", FIRST.fullname);
            let collector = format!("{}-collector-0", FIRST.fullname);
            [
                self.get(&["apiservice", API_SERVICE], ".spec.caBundle"),
                self.get(&["-n", FIRST.namespace, "secret", &secret], ".metadata.uid"),
                self.get(&["-n", FIRST.namespace, "pod", &collector], ".metadata.uid"),
            ]
        };
        let agents = || {
            let name = format!("{}-node-agent", FIRST.fullname);
            self.get(&["-n", FIRST.namespace, "daemonset", &name], ".metadata.generation")
        };
        let (before, generation) = (kept(), agents());
        assert!(before.iter().all(|text| !text.is_empty()), "{before:?}");
        let change = ["--reuse-values", "--set", "agent.maxFrequency=500", "--wait", "--timeout=180s"];
        self.release("upgrade", &FIRST, &change);
        assert_ne!(agents(), generation, "the upgrade changed nothing");
        assert_eq!(kept(), before);
        assert_eq!(self.policy(), policy);
        self.policy_is_followed(49);
    }

    fn an_uninstall_leaves_kinds_and_policies(&self, policy: &str) {
        self.uninstall(&FIRST);
        wait_for("what the operator made to go with it", || {
            let objects = ["-n", FIRST.namespace, "get", "pods,secrets,services", "-o", "name"];
            self.cluster.kubectl(&objects).trim().is_empty().then_some(())
        });
        let gone = self.cluster.kubectl_with(&["get", "apiservice", API_SERVICE], "");
        assert!(text(&gone).contains("NotFound"), "{}", text(&gone));
        assert_eq!(self.policy(), policy);
    }

    fn another_release_uses_the_kinds_as_they_are(&self, policy: &str) {
        let said = self.install(&SECOND);
        assert!(said.contains("is the one that release profiler left, and is used as it is"), "{said}");
        assert_eq!(self.policy(), policy);
        self.policy_is_followed(59);
        for kind in KINDS {
            assert_eq!(self.owner_of(kind), FIRST.name);
        }
    }

    fn kinds_of_another_version_are_taken_over_when_told_to(&self, policy: &str) {
        for kind in KINDS {
            let other = "hearth.dev/crd-digest=that-of-another-version";
            self.cluster.kubectl(&["annotate", "--overwrite", "crd", kind, other]);
        }
        let upgrade = ["upgrade", SECOND.name, CHART, "-n", SECOND.namespace, "--reuse-values"];
        let refused = self.helm.output(&upgrade);
        assert!(!refused.status.success(), "{}", text(&refused));
        assert!(text(&refused).contains("cannot be imported into the current release"), "{}", text(&refused));

        // The second flag is for what kubectl wrote above.
        let take = ["--take-ownership", "--force-conflicts", "--wait", "--timeout=180s"];
        self.helm.run(&[&upgrade[..], &take].concat());
        for kind in KINDS {
            assert_eq!(self.owner_of(kind), SECOND.name);
            let digest = self.get(&["crd", kind], ".metadata.annotations.hearth\\.dev/crd-digest");
            assert_ne!(digest, "that-of-another-version");
        }
        // From now on they are the release's own.
        self.helm.run(&[&upgrade[..], &["--wait", "--timeout=180s"]].concat());
        assert_eq!(self.policy(), policy);
        self.policy_is_followed(69);
    }

    /// What Helm says of the new release.
    fn install(&self, release: &Release) -> String {
        let folder = self.cluster.state().join(release.name);
        std::fs::create_dir_all(&folder).unwrap();
        self.cluster.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {}}}\n\
             spec:\n  capacity: {{storage: 1Gi}}\n  accessModes: [ReadWriteOnce]\n  local: {{path: {}}}\n\
             \x20 nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions:\n\
             \x20   [{{key: kubernetes.io/hostname, operator: In, values: [node1]}}]}}]}}}}\n",
            release.name,
            folder.display(),
        ));
        self.release(
            "install",
            release,
            &[&VALUES[..], &["--create-namespace", "--wait", "--timeout=180s"]].concat(),
        )
    }

    fn uninstall(&self, release: &Release) {
        self.helm.run(&["uninstall", release.name, "-n", release.namespace, "--wait", "--timeout=120s"]);
    }

    fn release(&self, verb: &str, release: &Release, arguments: &[&str]) -> String {
        self.helm.run(&[&[verb, release.name, CHART, "-n", release.namespace], arguments].concat())
    }

    fn owner_of(&self, kind: &str) -> String {
        self.get(&["crd", kind], ".metadata.annotations.meta\\.helm\\.sh/release-name")
    }

    fn policy(&self) -> String {
        self.get(&["-n", USERS, "profilingpolicy", "kept"], ".metadata.uid")
    }

    /// The policy is changed, and an operator of now says that nodes work by the change.
    fn policy_is_followed(&self, frequency: u8) {
        let policy = ["-n", USERS, "profilingpolicy/kept"];
        let patch = format!(r#"{{"spec":{{"frequency":{frequency}}}}}"#);
        self.cluster.kubectl(&[&["patch", "--type=merge", "-p", &patch], &policy[..]].concat());
        self.cluster.kubectl(&[&["wait", "--for=condition=Ready", "--timeout=90s"], &policy[..]].concat());
    }

    fn get(&self, object: &[&str], path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        self.cluster.kubectl(&[&["get"], object, &["-o", &path]].concat())
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        let delete = |arguments: &[&str]| {
            let flags = ["delete", "--ignore-not-found", "--timeout=60s"];
            self.cluster.kubectl_with(&[&flags[..], arguments].concat(), "");
        };
        for release in [FIRST, SECOND] {
            let Release { name, namespace, fullname: _ } = release;
            self.helm.output(&["uninstall", name, "-n", namespace, "--ignore-not-found", "--wait"]);
            delete(&["namespace", namespace]);
            delete(&["persistentvolume", name]);
        }
        delete(&[&["crd"], &KINDS[..]].concat());
    }
}
