"""Checks what a chart renders: validate.py CHART FOLDER...

Each FOLDER is a version of Kubernetes, such as `1.35`, with a YAML file for each scenario. Every object is checked by the
schema of that version, strictly, and by the rules below. Prints what is wrong, then "N passed, M failed" of files.
"""

import re
import sys
from pathlib import Path

import yaml
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate

# Kinds of others, of which Kubernetes has no schema.
FOREIGN = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}
CLUSTER_WIDE = {
    "APIService", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition",
    "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
}
# The longest that a label's value, and so a name that becomes one, may be.
LONGEST_NAME = 63


def main(chart, folders):
    wrong = {"templates/rbac.yaml": uncommented_verbs(chart / "templates/rbac.yaml")}
    for folder in folders:
        for file in sorted(folder.glob("*.yaml")):
            objects = [o for o in yaml.safe_load_all(file.read_text()) if o]
            wrong[f"{folder.name}/{file.name}"] = list(check(objects, folder.name))
    for name, findings in wrong.items():
        for finding in findings:
            print(f"{name}: {finding}")
    failed = sum(1 for findings in wrong.values() if findings)
    print(f"{len(wrong) - failed} passed, {failed} failed")
    return 1 if failed else 0


def check(objects, version):
    if not objects:
        yield "nothing was rendered"
    pods = {}
    for o in objects:
        for finding in (*schema(o, version), *rules(o)):
            yield f"{o['kind']} {o['metadata']['name']}: {finding}"
        if template := o.get("spec", {}).get("template"):
            pods[o["metadata"]["name"]] = template["metadata"]["labels"]
    for o in objects:
        if (selector := pod_selector(o)) and not any(selector.items() <= labels.items() for labels in pods.values()):
            yield f"{o['kind']} {o['metadata']['name']} selects no pod: {selector}"


def schema(o, version):
    if o["apiVersion"] in FOREIGN:
        return
    try:
        validate(o, version, strict=True)
    except ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    except SchemaNotFoundError as error:
        yield error.message


def rules(o):
    kind, name = o["kind"], o["metadata"]["name"]
    if (kind in CLUSTER_WIDE) == ("namespace" in o["metadata"]):
        yield "an object of the cluster has no namespace, and every other one names its own"
    if kind != "CustomResourceDefinition" and len(name) > LONGEST_NAME:
        yield f"its name is longer than {LONGEST_NAME}"
    if o["apiVersion"].startswith("profiling.hearth.dev/"):
        yield "a policy belongs to its users: the operator makes the first one"
    if kind == "CustomResourceDefinition" and o["metadata"]["annotations"].get("helm.sh/resource-policy") != "keep":
        yield "it would take all policies with it"
    for rule in o.get("rules", []):
        if "*" in str(rule):
            yield f"a right to everything: {rule}"
    if template := o.get("spec", {}).get("template"):
        spec = template["spec"]
        yield from every_pod(spec)
        if kind != "DaemonSet":
            yield from restricted(spec)


def every_pod(pod):
    for container in pod["containers"]:
        context = container["securityContext"]
        if context.get("privileged"):
            yield "privileged"
        if context.get("allowPrivilegeEscalation") is not False or not context.get("readOnlyRootFilesystem"):
            yield "it may gain rights, or write to its image"
        if context["capabilities"]["drop"] != ["ALL"]:
            yield "it keeps capabilities that it does not name"


def restricted(pod):
    """PodSecurity `restricted`: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    context = pod["securityContext"]
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield "it may run as root"
    if context["seccompProfile"]["type"] != "RuntimeDefault":
        yield "seccomp is not the runtime's"
    if any(pod.get(key) for key in ("hostPID", "hostIPC", "hostNetwork")):
        yield "it shares a namespace of the node"
    if any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield "it has a folder of the node"
    if any("add" in c["securityContext"]["capabilities"] for c in pod["containers"]):
        yield "it has a capability"


def pod_selector(o):
    spec = o.get("spec", {})
    match o["kind"]:
        case "Service":
            return spec["selector"]
        case "PodDisruptionBudget" | "PodMonitor" | "Deployment" | "StatefulSet" | "DaemonSet":
            return spec["selector"]["matchLabels"]
        case "NetworkPolicy":
            return spec["podSelector"]["matchLabels"]


def uncommented_verbs(file):
    """Each rule of RBAC stands under a comment in which each of its verbs is a word."""
    lines, comment = file.read_text().splitlines(), []
    findings = []
    for number, line in enumerate(lines, 1):
        if re.match(r"\s+# ", line):
            comment.append(line)
        elif verbs := re.match(r"\s+verbs: \[(.*)\]", line):
            words = set(re.findall(r"\w+", " ".join(comment)))
            missing = [verb for verb in verbs[1].split(", ") if verb not in words]
            if missing:
                findings.append(f"line {number}: no comment says what {', '.join(missing)} is for")
            comment = []
        elif not re.match(r"\s+(- apiGroups|resources|resourceNames):", line):
            comment = []
    if not any("verbs:" in line for line in lines):
        findings.append("it has no verbs")
    return findings


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]]))
