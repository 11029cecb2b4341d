//! The operator dies while it makes certificates.

use std::collections::BTreeSet;

use hearth_e2e::api_proxy::{Asked, Fate};

use super::*;

/// What it asks for them, and how often until all are there, reads aside.
const REQUESTS: [(&str, usize); 8] = [
    ("GET apiservices/v1alpha1.query.hearth.dev", 1),
    ("GET configmaps/hearth-operator-ca", 1),
    ("GET secrets/hearth-collector-tls", 1),
    ("GET secrets/hearth-operator-ca", 1),
    ("POST configmaps", 1),
    // The CA, and the collector's certificate.
    ("POST secrets", 2),
    ("POST selfsubjectreviews", 1),
    // That the collector has one, and until when.
    ("PUT configmaps/hearth-operator-ca", 1),
];
const OBJECTS: [&str; 3] =
    ["secret/hearth-operator-ca", "configmap/hearth-operator-ca", "secret/hearth-collector-tls"];

pub(super) fn after_each_request(cluster: &Cluster) {
    let stage = Stage::set(cluster);
    let issuing = stage.identity.clone().issuing_certificates();
    let all = REQUESTS.iter().flat_map(|(request, times)| (1..=*times).map(move |nth| (*request, nth)));
    for (request, nth) in all {
        stage.without_certificates();
        let (before, mut asked) = (stage.proxy.held(), 0);
        stage.proxy.set_rule(move |what| {
            asked += usize::from(what == request);
            if what == request && asked == nth { Fate::Held } else { Fate::Passed }
        });
        let operator = stage.start(&issuing);
        wait_for(request, || (stage.proxy.held() > before).then_some(()));
        operator.kill();
        stage.proxy.pass_all();
        let operator = stage.start(&issuing);
        stage.await_certificates();
        operator.kill();
    }
    // Whoever comes then finds all as it should be.
    stage.proxy.take();
    let operator = stage.start(&issuing);
    wait_for("a certificate of its own", || {
        operator.log().contains("this operator has a certificate").then_some(())
    });
    operator.kill();
    let asked = stage.proxy.take();
    let written: Vec<&Asked> =
        asked.iter().filter(|asked| is_of_certificates(&asked.what, "PUT POST PATCH")).collect();
    assert!(written.is_empty(), "{written:?}");

    stage.without_certificates();
    let operator = stage.start(&issuing);
    stage.await_certificates();
    operator.kill();
    let asked = stage.proxy.take();
    let distinct = asked.iter().map(|asked| asked.what.as_str());
    let distinct: BTreeSet<&str> =
        distinct.filter(|what| is_of_certificates(what, "GET PUT POST PATCH")).collect();
    assert_eq!(
        distinct,
        REQUESTS.iter().map(|(request, _)| *request).collect(),
        "a request was killed after that is not made, or the other way"
    );
    stage.without_certificates();
}

/// With one of these verbs.
fn is_of_certificates(what: &str, verbs: &str) -> bool {
    let Some((verb, object)) = what.split_once(' ') else { return false };
    let ours = ["apiservices", "configmaps", "secrets", "selfsubjectreviews"];
    verbs.split(' ').any(|wanted| wanted == verb) && ours.iter().any(|ours| object.starts_with(ours))
}

impl Stage<'_> {
    fn without_certificates(&self) {
        let delete = ["-n", NAMESPACE, "delete", "--ignore-not-found"];
        self.cluster.kubectl(&[&delete[..], &OBJECTS].concat());
        self.proxy.take();
    }

    fn await_certificates(&self) {
        wait_for("the certificates", || {
            OBJECTS.iter().all(|object| self.get(object).is_some()).then_some(())?;
            let map = self.get("configmap/hearth-operator-ca")?;
            map["data"]["ca.crt"].as_str()?.starts_with("-----BEGIN CERTIFICATE-----").then_some(())?;
            map["metadata"]["annotations"]["hearth.dev/collector-certificate-expires"]
                .is_string()
                .then_some(())
        });
    }
}
