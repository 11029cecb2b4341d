//! What each part of Hearth may do at the API server: what the docs say, and no more than it does.

use std::collections::{BTreeMap, BTreeSet};

use hearth_e2e::Cluster;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::profiles::on_hearth;

const DOCS: &str = include_str!("../../../docs/kubernetes.md");
const ACCOUNTS: [&str; 3] = ["hearth-operator", "hearth-collector", "hearth-node-agent"];
/// Where rights differ: the release's own, that of the API server's configuration, and any other.
const NAMESPACES: [&str; 3] = ["hearth", "kube-system", "default"];
/// Of whatever name.
const ANY: &str = "–";
/// Granted, and not asked for whenever these tests run: why it is.
const SELDOM: [(&str, &str); 3] = [
    ("hearth-operator patch events.events.k8s.io", "an Event that comes again is counted in the one before"),
    ("hearth-operator update secrets hearth-operator-ca", "at two thirds of the CA's life"),
    ("hearth-operator update secrets hearth-collector-tls", "at two thirds of the certificate's life"),
];

/// The first of them: nothing was asked for yet.
pub(crate) fn tests() -> Vec<Trial> {
    vec![on_hearth("rights::each_account_may_what_the_docs_say", the_docs_say_it)]
}

/// The last of them: everything was asked for.
pub(crate) fn last_tests() -> Vec<Trial> {
    vec![on_hearth("rights::what_is_granted_is_used_and_what_is_used_is_granted", granted_is_used)]
}

/// A row of `kubectl auth can-i --list`, without what every service account may.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    resource: String,
    names: String,
    verbs: String,
}

fn rights(cluster: &Cluster, account: &str, namespace: &str) -> BTreeSet<Right> {
    let account = format!("--as=system:serviceaccount:hearth:{account}");
    let list = cluster.kubectl(&["auth", "can-i", "--list", &account, "-n", namespace]);
    let mut lines = list.lines();
    // Columns begin where their titles do.
    let title = lines.next().unwrap();
    let at = ["Non-Resource URLs", "Resource Names", "Verbs"].map(|name| title.find(name).unwrap());
    let field = |line: &str, from: usize, to: usize| {
        line.get(from..to.min(line.len())).unwrap_or_default().trim().to_owned()
    };
    let of_line = |line: &str| Right {
        resource: field(line, 0, at[0]),
        names: match field(line, at[1], at[2]).trim_matches(['[', ']']) {
            "" => ANY.to_owned(),
            names => names.to_owned(),
        },
        verbs: field(line, at[2], line.len()).trim_matches(['[', ']']).replace(' ', ", "),
    };
    lines.map(of_line).filter(|right| !right.resource.is_empty()).collect()
}

/// Of an account: the rights that it has beyond any other's, everywhere or in one namespace.
fn own_rights(cluster: &Cluster, account: &str) -> BTreeMap<&'static str, BTreeSet<Right>> {
    let within = NAMESPACES.map(|namespace| {
        let anybody = rights(cluster, "default", namespace);
        let own: BTreeSet<Right> = &rights(cluster, account, namespace) - &anybody;
        own
    });
    let [hearth, system, everywhere] = within;
    let (hearth, system) = (&hearth - &everywhere, &system - &everywhere);
    BTreeMap::from([("hearth", hearth), ("kube-system", system), ("everywhere", everywhere)])
}

fn table(cluster: &Cluster) -> String {
    let mut table =
        "| account | where | resource | names | verbs |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for account in ACCOUNTS {
        for (place, rights) in own_rights(cluster, account) {
            for Right { resource, names, verbs } in rights {
                table += &format!("| `{account}` | {place} | {resource} | {names} | {verbs} |\n");
            }
        }
    }
    table
}

fn the_docs_say_it(cluster: &Cluster) {
    let table = table(cluster);
    println!("{table}");
    assert!(DOCS.contains(&table), "docs/kubernetes.md has another table than\n{table}");
}

/// `account verb resource.group name`, of rights that are for a name; without the name of others.
fn granted_is_used(cluster: &Cluster) {
    let mut granted = BTreeSet::new();
    for account in ACCOUNTS {
        for Right { resource, names, verbs } in own_rights(cluster, account).into_values().flatten() {
            for verb in verbs.split(", ") {
                for name in names.split(' ') {
                    let right = format!("{account} {verb} {resource} {name}");
                    granted.insert(right.trim_end_matches([' ', '–']).to_owned());
                }
            }
        }
    }
    let used = requests(cluster);
    let seldom = SELDOM.map(|(right, _)| right);
    let unused: Vec<&String> =
        granted.iter().filter(|right| !used.contains(*right) && !seldom.contains(&right.as_str())).collect();
    assert!(unused.is_empty(), "granted and never asked for: {unused:#?}\nof {used:#?}");
    println!("{} rights are granted, and used", granted.len());
}

/// What Hearth asked of the API server, in the form of rights; each was granted.
///
/// An API server that was just started refuses even what is granted until it has read the roles, so a refused
/// request is a missing right only where the same one was not answered later.
fn requests(cluster: &Cluster) -> BTreeSet<String> {
    let log = std::fs::read_to_string(cluster.state().join("log/audit")).unwrap();
    // Of this installation: one that is taken down loses its rights before it has ended.
    let accounts = ACCOUNTS.map(|account| {
        cluster.kubectl(&["-n", "hearth", "get", "serviceaccount", account, "-o", "jsonpath={.metadata.uid}"])
    });
    let mut requests = BTreeSet::new();
    let mut refused = BTreeMap::new();
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        // What tests do in its name.
        if event["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl")) {
            continue;
        }
        if !accounts.iter().any(|uid| event["user"]["uid"] == **uid) {
            continue;
        }
        let account = event["user"]["username"].as_str().unwrap();
        let account = account.strip_prefix("system:serviceaccount:hearth:").unwrap();
        let Some(object) = event["objectRef"].as_object() else { continue };
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
        // As kubectl writes it: resource.group/subresource.
        let mut resource = text("resource").to_owned();
        for (mark, field) in [('.', "apiGroup"), ('/', "subresource")] {
            if !text(field).is_empty() {
                resource = format!("{resource}{mark}{}", text(field));
            }
        }
        let request = format!("{account} {} {resource}", event["verb"].as_str().unwrap());
        let asked = format!("{request} {} in {:?}", text("name"), text("namespace"));
        match event["responseStatus"]["code"].as_u64() {
            // Too many at once: nothing was decided.
            Some(429) => continue,
            Some(403) => {
                refused.insert(asked, line);
                continue;
            }
            Some(_) | None => _ = refused.remove(&asked),
        }
        requests.insert(format!("{request} {}", text("name")));
        requests.insert(request);
    }
    assert!(refused.is_empty(), "not granted: {refused:#?}");
    requests
}
