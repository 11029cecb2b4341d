#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::certificates::plan::PROPAGATION_SECONDS;
use crate::certificates::read;
use crate::fake_api::{FakeApi, Fault};

const CA_SECRET: &str = "/api/v1/namespaces/hearth/secrets/hearth-operator-ca";
const BUNDLE: &str = "/api/v1/namespaces/hearth/configmaps/hearth-operator-ca";
const COLLECTOR_SECRET: &str = "/api/v1/namespaces/hearth/secrets/hearth-collector-tls";
const API_SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.query.hearth.dev";
const OBJECTS: [&str; 3] = [CA_SECRET, BUNDLE, COLLECTOR_SECRET];

const START: i64 = 1_800_000_000;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const LIVES: Lives =
    Lives { ca: Duration::from_secs(365 * 86_400), certificate: Duration::from_secs(30 * 86_400) };

thread_local! {
    /// All tasks of a test are on its thread.
    static NOW: Cell<i64> = const { Cell::new(START) };
}

fn clock() -> i64 {
    NOW.get()
}

/// Days, months and years, in which nobody looks.
fn pass(seconds: i64) {
    NOW.set(NOW.get() + seconds);
}

/// One operator.
struct Operator {
    keeper: Keeper,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    served: Arc<Mutex<Vec<Pair>>>,
}

impl Operator {
    fn new(api: &FakeApi) -> Self {
        let (hub, metrics) = (Arc::new(Hub::new(clock)), Arc::new(Metrics::default()));
        let names = Names {
            namespace: "hearth".to_owned(),
            operator_service: "hearth-operator".to_owned(),
            collector_service: "hearth-collector".to_owned(),
        };
        let served: Arc<Mutex<Vec<Pair>>> = Arc::default();
        let serve = {
            let served = Arc::clone(&served);
            Box::new(move |pair: &Pair| {
                served.lock().unwrap().push(pair.clone());
                Ok(())
            })
        };
        let readiness = Readiness::waiting();
        let shared = (Arc::clone(&hub), Arc::clone(&metrics));
        let keeper = Keeper::new(api.client(), names, LIVES, shared, clock, readiness.clone(), serve);
        Self { keeper, hub, metrics, readiness, served }
    }

    fn leading(api: &FakeApi) -> Self {
        let operator = Self::new(api);
        operator.hub.set_leadership(Leadership::Leading);
        operator
    }

    /// One pass, which settles everything.
    async fn look(&mut self) {
        self.keeper.turn().await;
        assert_eq!(self.readiness.why_not(), None);
        assert_eq!(self.keeper.failing, None);
    }

    /// Works in the background.
    fn start(self) -> (JoinHandle<()>, Readiness) {
        let readiness = self.readiness.clone();
        (tokio::spawn(self.keeper.run()), readiness)
    }

    fn own(&self) -> Pair {
        self.served.lock().unwrap().last().unwrap().clone()
    }

    fn counted(&self, metric: &str) -> String {
        let text = self.metrics.encode(&self.hub).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(metric));
        line.unwrap_or_else(|| panic!("no {metric} in {text}")).trim().to_owned()
    }
}

/// An empty one, at the beginning of time.
fn api() -> FakeApi {
    NOW.set(START);
    FakeApi::default()
}

fn with_api_service() -> FakeApi {
    let api = api();
    api.put(
        API_SERVICE,
        json!({
            "metadata": {"name": "v1alpha1.query.hearth.dev", "resourceVersion": "1"},
            "spec": {
                "group": "query.hearth.dev", "version": "v1alpha1", "groupPriorityMinimum": 100, "versionPriority": 100,
                "service": {"name": "hearth-collector", "namespace": "hearth", "port": 443},
            },
        }),
    );
    api
}

fn writes(api: &FakeApi) -> Vec<String> {
    let log = api.take_log("");
    log.into_iter().filter(|line| !line.starts_with("GET") && !line.ends_with("reviews")).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::from_value::<k8s_openapi::ByteString>(value.clone()).unwrap().0
}

fn secret_pair(api: &FakeApi, path: &str, name: &str) -> Pair {
    let data = api.get(path).unwrap()["data"].clone();
    let part = |part: &str| bytes(&data[format!("{name}.{part}")]);
    read::pair(&part("crt"), &part("key")).unwrap()
}

fn signer(api: &FakeApi) -> Certificate {
    secret_pair(api, CA_SECRET, "ca").certificate
}

fn collector(api: &FakeApi) -> Certificate {
    secret_pair(api, COLLECTOR_SECRET, "tls").certificate
}

fn bundle(api: &FakeApi) -> Vec<Certificate> {
    let text = api.get(BUNDLE).unwrap()["data"]["ca.crt"].as_str().unwrap().to_owned();
    read::certificates(text.as_bytes()).unwrap()
}

fn annotation(api: &FakeApi, path: &str, name: &str) -> Value {
    api.get(path).unwrap()["metadata"]["annotations"][name].clone()
}

/// Everything is there, and fits.
fn assert_settled(api: &FakeApi) {
    let (signer, collector) = (signer(api), collector(api));
    assert!(collector.signed_by(&signer));
    assert!(bundle(api).contains(&signer));
    assert!(signer.facts().valid.covers(clock()) && collector.facts().valid.covers(clock()));
    let ca_expires = annotation(api, BUNDLE, "hearth.dev/ca-expires");
    assert_eq!(ca_expires, rfc3339(signer.facts().valid.until).unwrap());
    let collector_expires = annotation(api, BUNDLE, "hearth.dev/collector-certificate-expires");
    assert_eq!(collector_expires, rfc3339(collector.facts().valid.until).unwrap());
    if let Some(service) = api.get(API_SERVICE) {
        assert_eq!(read::certificates(&bytes(&service["spec"]["caBundle"])).unwrap(), bundle(api));
    }
}

#[tokio::test]
async fn an_installation_writes_three_objects_and_the_second_look_nothing() {
    let api = with_api_service();
    let mut operator = Operator::leading(&api);
    operator.look().await;
    assert_settled(&api);
    let (secrets, maps) = ("/api/v1/namespaces/hearth/secrets", "/api/v1/namespaces/hearth/configmaps");
    let expected = [
        format!("POST {secrets}"),
        format!("POST {maps}"),
        format!("POST {secrets}"),
        // When the collector's certificate expires.
        format!("PUT {BUNDLE}"),
        format!("PATCH {API_SERVICE}"),
    ];
    assert_eq!(writes(&api), expected);
    assert!(operator.own().certificate.signed_by(&signer(&api)));
    assert_eq!(*collector(&api).names(), operator.keeper.objects.names().of_collector());
    assert_eq!(*operator.own().certificate.names(), operator.keeper.objects.names().of_operator());
    assert_eq!(api.get(COLLECTOR_SECRET).unwrap()["type"], "kubernetes.io/tls");
    let owner = json!([{
        "apiVersion": "v1", "kind": "ServiceAccount", "name": "hearth-operator", "uid": "uid-of-account",
    }]);
    for path in OBJECTS {
        assert_eq!(api.get(path).unwrap()["metadata"]["ownerReferences"], owner, "{path}");
    }
    operator.look().await;
    assert_eq!(writes(&api), [""; 0]);
    assert_eq!(operator.served.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_deleted_by_hand_comes_again() {
    let api = with_api_service();
    let mut operator = Operator::leading(&api);
    operator.look().await;
    let (ca, leaf) = (signer(&api), collector(&api));
    for path in [BUNDLE, COLLECTOR_SECRET] {
        api.remove(path);
        operator.look().await;
        assert_settled(&api);
        assert_eq!(signer(&api), ca, "the CA stays");
    }
    assert_ne!(collector(&api), leaf);
    api.remove(CA_SECRET);
    operator.look().await;
    assert_settled(&api);
    assert_eq!(bundle(&api), [signer(&api)], "the old CA is trusted no more: its key may be in other hands");
    assert!(operator.own().certificate.signed_by(&signer(&api)));
}

#[tokio::test]
async fn what_is_damaged_is_replaced() {
    let api = with_api_service();
    let mut operator = Operator::leading(&api);
    operator.look().await;
    let damage = |path: &str, change: &dyn Fn(&mut Value)| {
        let mut object = api.get(path).unwrap();
        change(&mut object);
        api.put(path, object);
    };
    for change in [
        &(|secret: &mut Value| secret["data"]["ca.key"] = json!("AAAA")) as &dyn Fn(&mut Value),
        &|secret: &mut Value| secret["data"]["ca.crt"] = secret["data"]["ca.key"].clone(),
        &|secret: &mut Value| secret["data"] = Value::Null,
        &|secret: &mut Value| secret["data"]["next.crt"] = json!("eA=="),
        &|secret: &mut Value| secret["metadata"]["annotations"] = json!({"hearth.dev/next-published": "now"}),
    ] {
        let before = signer(&api);
        damage(CA_SECRET, change);
        operator.look().await;
        assert_settled(&api);
        assert_ne!(signer(&api), before);
    }
    damage(COLLECTOR_SECRET, &|secret| secret["data"]["tls.crt"] = json!("eA=="));
    operator.look().await;
    assert_settled(&api);
    damage(BUNDLE, &|map| map["data"]["ca.crt"] = json!("anybody"));
    operator.look().await;
    assert_settled(&api);
}

#[tokio::test]
async fn what_others_made_is_left_alone_and_said() {
    for path in OBJECTS {
        let api = api();
        let (_, name) = path.rsplit_once('/').unwrap();
        let theirs =
            json!({"metadata": {"name": name, "namespace": "hearth", "resourceVersion": "1"}, "data": {}});
        api.put(path, theirs.clone());
        let mut operator = Operator::leading(&api);
        operator.keeper.turn().await;
        assert_eq!(api.get(path).unwrap(), theirs);
        let why = operator.readiness.why_not().unwrap();
        assert!(
            why.contains(&format!("hearth/{name} is there already and was not made by an operator")),
            "{why}"
        );
        assert_eq!(operator.counted("hearth_operator_certificate_failures_total"), "1");
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_at_two_thirds_and_what_else_is_in_an_object_stays() {
    let api = with_api_service();
    let mut operator = Operator::leading(&api);
    operator.look().await;
    let (first, own) = (collector(&api), operator.own());
    let mut secret = api.get(COLLECTOR_SECRET).unwrap();
    secret["metadata"]["labels"]["team"] = json!("a");
    api.put(COLLECTOR_SECRET, secret);
    pass(20 * DAY - 2 * HOUR);
    operator.look().await;
    assert_eq!(collector(&api), first);
    pass(2 * HOUR);
    writes(&api);
    operator.look().await;
    assert_eq!(writes(&api), [format!("PUT {COLLECTOR_SECRET}"), format!("PUT {BUNDLE}")]);
    assert_settled(&api);
    assert_ne!(collector(&api), first);
    assert_ne!(operator.own(), own);
    assert_eq!(api.get(COLLECTOR_SECRET).unwrap()["metadata"]["labels"]["team"], "a");
    let until = (clock() + 30 * DAY).to_string();
    for which in ["operator", "collector"] {
        let metric = format!("hearth_operator_certificate_expires_timestamp_seconds{{which=\"{which}\"}}");
        assert_eq!(operator.counted(&metric), until);
    }
}

#[tokio::test]
async fn a_ca_is_renewed_without_a_moment_in_which_something_cannot_be_verified() {
    let api = with_api_service();
    let (mut operator, mut standby) = (Operator::leading(&api), Operator::new(&api));
    operator.look().await;
    let old = signer(&api);
    pass(244 * DAY);
    operator.look().await;
    standby.look().await;
    let both = bundle(&api);
    assert_eq!((both.len(), &both[0]), (2, &old), "the next one is published, and does not sign");
    assert!(collector(&api).signed_by(&old) && operator.own().certificate.signed_by(&old));
    pass(PROPAGATION_SECONDS - 1);
    operator.look().await;
    assert_eq!(signer(&api), old);
    pass(1);
    operator.look().await;
    standby.look().await;
    assert_settled(&api);
    let new = signer(&api);
    assert_eq!(bundle(&api), [both[1].clone(), old.clone()]);
    assert_eq!(new, both[1]);
    for own in [&operator, &standby] {
        assert!(own.own().certificate.signed_by(&new));
    }
    let secret = api.get(CA_SECRET).unwrap();
    let keys: Vec<&String> = secret["data"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["ca.crt", "ca.key", "previous.crt"], "the old one's key is gone");
    let until = old.facts().valid.until;
    NOW.set(until);
    operator.look().await;
    assert_settled(&api);
    assert_eq!(bundle(&api), [new]);
}

#[tokio::test]
async fn a_rotation_is_asked_for_by_an_annotation() {
    let api = api();
    let mut operator = Operator::leading(&api);
    operator.look().await;
    let old = signer(&api);
    let mut secret = api.get(CA_SECRET).unwrap();
    secret["metadata"]["annotations"]["hearth.dev/rotate"] = json!("");
    api.put(CA_SECRET, secret);
    operator.look().await;
    assert_eq!(annotation(&api, CA_SECRET, "hearth.dev/rotate"), Value::Null);
    pass(PROPAGATION_SECONDS);
    operator.look().await;
    assert_settled(&api);
    assert_ne!(signer(&api), old);
    assert_eq!(bundle(&api).len(), 2);
}

#[tokio::test]
async fn an_api_service_is_ours_where_it_leads_to_the_collector() {
    for (change, ours) in [
        (json!({"service": {"name": "other"}}), false),
        (json!({"service": {"namespace": "other"}}), false),
        (json!({"insecureSkipTLSVerify": true}), false),
        (json!({"caBundle": "eA=="}), true),
    ] {
        let api = with_api_service();
        let mut service = api.get(API_SERVICE).unwrap();
        for (key, value) in change.as_object().unwrap() {
            match value.as_object() {
                Some(inner) => service["spec"][key].as_object_mut().unwrap().extend(inner.clone()),
                None => service["spec"][key] = value.clone(),
            }
        }
        api.put(API_SERVICE, service.clone());
        Operator::leading(&api).look().await;
        assert_eq!(api.get(API_SERVICE).unwrap() != service, ours, "{change}");
    }
    // It comes later, or may not be read.
    let api = api();
    let mut operator = Operator::leading(&api);
    operator.look().await;
    api.fail("GET /apis/apiregistration", Fault::Code(403));
    operator.look().await;
    api.put(API_SERVICE, with_api_service().get(API_SERVICE).unwrap());
    operator.look().await;
    assert_settled(&api);
}

#[tokio::test(start_paused = true)]
async fn whatever_request_it_dies_after_the_next_one_brings_all_to_an_end() {
    let mut requests = 0;
    for n in 0.. {
        let api = with_api_service();
        api.fail_after(n, Fault::Lost);
        let mut operator = Operator::leading(&api);
        // Killed while it waits for the answer.
        let died = tokio::time::timeout(Duration::from_secs(1), operator.keeper.turn()).await.is_err();
        if !died {
            requests = n;
            break;
        }
        let mut next = Operator::leading(&api);
        next.look().await;
        assert_settled(&api);
        writes(&api);
        next.look().await;
        assert_eq!(writes(&api), [""; 0], "killed after request {n}");
    }
    // Six times four are read, five written, and who we are is asked once.
    assert_eq!(requests, 30);
}

#[tokio::test(start_paused = true)]
async fn whatever_request_fails_it_is_tried_again() {
    for fault in [Fault::Code(500), Fault::Code(409), Fault::Hang] {
        for n in 0..30 {
            let api = with_api_service();
            api.fail_after(n, fault);
            let (task, readiness) = Operator::leading(&api).start();
            tokio::time::timeout(Duration::from_secs(60), async {
                while readiness.why_not().is_some()
                    || api.get(API_SERVICE).unwrap()["spec"]["caBundle"].is_null()
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
            .await
            .unwrap_or_else(|_| panic!("{fault:?} of request {n}: {:?}", readiness.why_not()));
            task.abort();
            assert_settled(&api);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_that_both_lead_make_one_ca() {
    let api = with_api_service();
    let (mut a, mut b) = (Operator::leading(&api), Operator::leading(&api));
    tokio::join!(a.keeper.turn(), b.keeper.turn());
    assert_settled(&api);
    let posted = api.take_log("POST").len();
    for operator in [&mut a, &mut b] {
        operator.look().await;
        assert!(operator.own().certificate.signed_by(&signer(&api)));
    }
    assert!(posted > 5, "they were not at it at once: {posted} requests");
    assert_eq!(writes(&api), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_standby_writes_nothing_and_has_its_own_certificate_within_seconds() {
    let api = api();
    let standby = Operator::new(&api);
    let (task, readiness) = standby.start();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(writes(&api), [""; 0]);
    let why = readiness.why_not().unwrap();
    assert_eq!(why, "this operator has no certificate to serve with: there is no CA yet");
    Operator::leading(&api).look().await;
    writes(&api);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(readiness.why_not(), None);
    assert_eq!(writes(&api), [""; 0]);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_standby_of_a_leader_that_makes_none_makes_them_after_half_a_minute() {
    let api = api();
    let (task, readiness) = Operator::new(&api).start();
    tokio::time::sleep(STAND_IN_AFTER + Duration::from_secs(3)).await;
    assert_eq!(readiness.why_not(), None);
    assert!(api.get(CA_SECRET).is_some() && api.get(BUNDLE).is_some());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_costs_readiness_when_the_certificate_has_expired() {
    let api = api();
    let mut operator = Operator::leading(&api);
    operator.look().await;
    api.set_broken(Some(Fault::Code(503)));
    pass(29 * DAY);
    operator.keeper.turn().await;
    assert_eq!(operator.readiness.why_not(), None);
    pass(DAY);
    operator.keeper.turn().await;
    let why = operator.readiness.why_not().unwrap();
    assert!(why.contains("ConfigMap hearth/hearth-operator-ca could not be read: "), "{why}");
    api.set_broken(None);
    operator.look().await;
    assert_settled(&api);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_served_is_said_and_made_again() {
    let api = api();
    let mut operator = Operator::leading(&api);
    operator.keeper.serve = Box::new(|_| Err("no".into()));
    operator.keeper.turn().await;
    let why = operator.readiness.why_not().unwrap();
    assert!(why.ends_with("this operator's certificate cannot be served: no"), "{why}");
}

#[tokio::test]
async fn the_port_of_agents_opens_with_the_first_certificate() {
    let (serve, mut first) = crate::grpc::port::serving_first();
    assert!(first.borrow_and_update().is_none());
    let api = api();
    let mut operator = Operator::leading(&api);
    operator.keeper.serve = serve;
    operator.look().await;
    let tls = first.borrow_and_update().clone().unwrap();
    assert_eq!(tls.validity().until, START + 30 * DAY);
    pass(20 * DAY);
    operator.look().await;
    assert_eq!(tls.validity().until, clock() + 30 * DAY, "it is the same, with another certificate");
    assert!(!first.has_changed().unwrap());
}
