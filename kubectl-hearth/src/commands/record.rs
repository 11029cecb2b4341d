//! `record`: a policy for a while, and the flame graph of that time.

use std::pin::pin;
use std::time::Duration;

use hearth_policy::{
    Interval, LabelSelector, Labels, PolicyStatus, ProfilingPolicy, ProfilingPolicySpec, SpecCore,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::flame::{check, draw};
use crate::cli::RecordArgs;
use crate::commands::{Session, now};
use crate::ended::asked_to_end;
use crate::error::Failure;
use crate::kubernetes::Found;
use crate::profile::{Ask, Values};
use crate::resolve::{Selection, Stored, both, text};
use crate::screen::Screen;
use crate::surface::Question;
use crate::target::Target;
use crate::time::{Range, Span};

/// On the policies that are made here: by whom.
const RECORDED_BY: &str = "hearth.dev/recorded-by";
/// The highest that the namespaced kind may have, so that no other of the namespace wins.
const PRIORITY: i32 = 1000;
/// A policy that nobody deletes ends by itself so long after it should.
const SLACK_SECONDS: i64 = 120;
/// `duration` of a policy is a day at most.
const MAX_SECONDS: i64 = 23 * 3600;
/// Between two looks.
const PACE: Duration = Duration::from_millis(500);
/// How long samples may take from a closed window into the store.
const SETTLE: Duration = Duration::from_secs(10);
/// How long to wait for the last samples where windows of unknown length are closed: the longest is a minute.
const LONGEST: Duration = Duration::from_secs(75);

/// A policy for a while, its samples, and its end.
pub(super) async fn record(
    session: &Session,
    args: &RecordArgs,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    session.need_kubernetes("record")?;
    check(&args.output, screen)?;
    if args.span.0 > MAX_SECONDS {
        return Err(Failure::Usage(
            "--for is more than 23h: a policy that stays is made by kubectl apply".to_owned(),
        ));
    }
    // From here on a signal does not end the process before the policy is deleted.
    let asked =
        asked_to_end().map_err(|error| Failure::Recording(format!("signals cannot be caught: {error}")))?;
    let mut stop = pin!(asked);
    let selection = session.resolve(&args.target).await?;
    let recording = Recording::of(session, args, selection, screen).await?;
    // Who may not see the samples need not take them.
    let tried = recording.ask(session, Range { from: now(), until: now() });
    session.surface.ask(&tried.values("app_service", "").with("limit", 1)).await?;
    let sampled = {
        recording.begin(session).await?;
        let sampling = recording.sample(session, args, screen);
        tokio::select! {
            sampled = sampling => sampled,
            signal = &mut stop => Err(Failure::Stopped(signal)),
        }
    };
    screen.clear();
    recording.end(session).await?;
    let ask = recording.ask(session, sampled?);
    let shown = async {
        recording.settle(session, &ask, screen).await?;
        draw(session, &ask, &args.output, screen).await
    };
    tokio::select! {
        shown = shown => shown,
        signal = &mut stop => Err(Failure::Stopped(signal)),
    }
}

/// An answer of `timeline`.
#[derive(Deserialize)]
struct Timeline {
    /// Seconds.
    step: u64,
}

/// A policy, and what is asked for by it.
struct Recording {
    policy: ProfilingPolicy,
    api: Api<ProfilingPolicy>,
    namespace: String,
    name: String,
    selection: Selection,
}

impl Recording {
    async fn of(
        session: &Session,
        args: &RecordArgs,
        selection: Selection,
        screen: &mut Screen<'_>,
    ) -> Result<Self, Failure> {
        if let Some(gone) = &selection.gone {
            return Err(session.missing(gone, Stored::NotAsked).await?);
        }
        let (namespace, selector, containers) = match (&args.target, &selection.pod) {
            (Target::Pod(name), Some(pod)) => {
                let labels: Labels = pod.metadata.labels.clone().unwrap_or_default();
                if labels.is_empty() {
                    return Err(Failure::Recording(format!(
                        "pod {name} has no label, and a policy selects by labels, so it would take every pod of the namespace: \
                         kubectl label pod {name} hearth-record={name}"
                    )));
                }
                let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| session.namespace.clone());
                say_others(session, &namespace, name, &labels, screen).await?;
                (
                    namespace,
                    LabelSelector { match_labels: labels, ..LabelSelector::default() },
                    containers(pod),
                )
            }
            (Target::Pod(name), None) => {
                return Err(Failure::Forbidden {
                    said: format!("pod {name} cannot be read"),
                    remedy: "recording needs its labels: ask for the right to get pods in this namespace"
                        .to_owned(),
                });
            }
            (Target::Workload(kind, name), _) if !session.all_namespaces => {
                let workload = session.surface.workload(*kind, &session.namespace, name).await?;
                let object = match workload {
                    Found::Here(object) => object,
                    Found::Nowhere => return Err(Failure::NoObject(format!("{} is gone", args.target))),
                    Found::Hidden(said) => {
                        let remedy = "recording needs its selector: ask for the right to get it".to_owned();
                        return Err(Failure::Forbidden { said, remedy });
                    }
                };
                let selector = serde_json::from_value(object.data["spec"]["selector"].clone());
                let selector = selector.map_err(|_| {
                    Failure::Usage(format!("{} has no selector of pods: record one of its pods", args.target))
                })?;
                (session.namespace.clone(), selector, Vec::new())
            }
            (Target::Workload(..), _) => {
                return Err(Failure::Usage("a policy is of one namespace: choose it by -n".to_owned()));
            }
            (target, _) => {
                return Err(Failure::Usage(format!("record takes a pod or a workload, not {target}")));
            }
        };
        let name = format!("record-{}", &Uuid::new_v4().simple().to_string()[..12]);
        let core = SpecCore {
            frequency: args.frequency,
            priority: PRIORITY,
            pod_selector: Some(selector),
            containers,
            duration: Some(duration(args.span)),
            ..SpecCore::default()
        };
        let mut policy = ProfilingPolicy::new(&name, ProfilingPolicySpec { core, ..Default::default() });
        policy.metadata.namespace = Some(namespace.clone());
        policy.metadata.labels = Some([(RECORDED_BY.to_owned(), user())].into());
        let api = Api::namespaced(session.surface.client.clone(), &namespace);
        Ok(Self { policy, api, namespace, name, selection })
    }

    async fn begin(&self, session: &Session) -> Result<(), Failure> {
        let parameters = PostParams::default();
        match session.surface.found(self.api.create(&parameters, &self.policy)).await {
            Ok(Found::Here(_)) => Ok(()),
            Ok(Found::Nowhere) => {
                session.surface.check_namespace(&self.namespace).await?;
                Err(Failure::NotInstalled("profiling.hearth.dev/v1alpha1"))
            }
            Ok(Found::Hidden(said)) => Err(Failure::Forbidden {
                said,
                remedy: "recording makes a policy: ask for the right to create, get and delete profilingpolicies in \
                         this namespace, as the ClusterRole edit gives it"
                    .to_owned(),
            }),
            // It may have been made all the same.
            Err(failure) => self.end(session).await.and(Err(failure)),
        }
    }

    /// Waits for the node, then for the time. Returns from when until when.
    async fn sample(
        &self,
        session: &Session,
        args: &RecordArgs,
        screen: &mut Screen<'_>,
    ) -> Result<Range, Failure> {
        self.wait_for_nodes(session, args.wait, screen).await?;
        let from = now();
        let begin = Instant::now();
        let span = Duration::from_secs(args.span.0.unsigned_abs());
        while begin.elapsed() < span {
            let done = begin.elapsed().as_secs();
            screen.progress(&format!(
                "sampling {} at {} Hz: {done} of {} s (Ctrl-C stops it)",
                self.selection.label,
                args.frequency,
                span.as_secs()
            ));
            sleep((span - begin.elapsed().min(span)).min(PACE)).await;
        }
        Ok(Range { from, until: now() })
    }

    async fn wait_for_nodes(
        &self,
        session: &Session,
        Span(seconds): Span,
        screen: &mut Screen<'_>,
    ) -> Result<(), Failure> {
        let begin = Instant::now();
        loop {
            let policy = match session.surface.found(self.api.get(&self.name)).await? {
                Found::Here(policy) => policy,
                Found::Nowhere => {
                    return Err(Failure::Recording("somebody has deleted the policy meanwhile".to_owned()));
                }
                Found::Hidden(said) => {
                    let remedy = "ask for the right to get profilingpolicies in this namespace".to_owned();
                    return Err(Failure::Forbidden { said, remedy });
                }
            };
            let generation = policy.metadata.generation;
            let status =
                policy.status.filter(|status| status.observed_generation == generation).unwrap_or_default();
            if truth(&status, "Programmed") == Some("True") {
                return Ok(());
            }
            if truth(&status, "Accepted") == Some("False") {
                return Err(Failure::Recording(format!(
                    "the policy is refused: {}",
                    said(&status, "Accepted")
                )));
            }
            if begin.elapsed() >= Duration::from_secs(seconds.unsigned_abs()) {
                let said = match said(&status, "Programmed") {
                    said if said.is_empty() => {
                        "the operator has not looked at it: kubectl hearth status".to_owned()
                    }
                    said => said,
                };
                return Err(Failure::Recording(format!(
                    "no node works by the policy after {seconds} s: {said}; wait longer by --wait, or see \
                     kubectl hearth explain"
                )));
            }
            screen.progress(&format!("waiting for the node of {}", self.selection.label));
            sleep(PACE).await;
        }
    }

    /// Deletes the policy.
    async fn end(&self, session: &Session) -> Result<(), Failure> {
        let deleted = session.surface.found(self.api.delete(&self.name, &DeleteParams::default())).await;
        let problem = match deleted {
            // Gone is gone.
            Ok(Found::Here(_) | Found::Nowhere) => return Ok(()),
            Ok(Found::Hidden(said)) => said,
            Err(failure) => failure.to_string(),
        };
        let (name, namespace) = (&self.name, &self.namespace);
        Err(Failure::Recording(format!(
            "the policy could not be deleted ({problem}); it ends by itself, or by kubectl delete pp {name} -n {namespace}"
        )))
    }

    /// Samples of this policy alone: others had other rates.
    fn ask(&self, session: &Session, range: Range) -> Ask {
        let policy = format!("policy = {}", text(&format!("{}/{}", self.namespace, self.name)));
        let filter = both(&self.selection.filter, &policy);
        // What is empty has been sampled: that is no reason to look for a pod that is gone.
        let selection = Selection { filter, ..self.selection.clone() };
        session.ask(selection, range, "on-cpu")
    }

    /// Waits until the last window is stored, or must be.
    async fn settle(&self, session: &Session, ask: &Ask, screen: &mut Screen<'_>) -> Result<(), Failure> {
        // The collector begins at the start of the window that this second is in.
        let last = Range { from: ask.range.until - 1, until: ask.range.until };
        let ask = Ask { range: last, ..ask.clone() };
        let begin = Instant::now();
        let mut patience = None;
        loop {
            screen.progress("waiting for the last samples");
            let answer: Values =
                session.surface.read(&ask.values("app_service", "").with("limit", 1)).await?;
            if !answer.values.is_empty() {
                return Ok(());
            }
            let patience = match patience {
                Some(patience) => patience,
                None => *patience.insert(longest_wait(session, &ask).await),
            };
            if begin.elapsed() >= patience {
                return Ok(());
            }
            sleep(PACE).await;
        }
    }
}

/// How long the last samples may take into the store: a window, which is no longer than a timeline's
/// step, and what follows.
async fn longest_wait(session: &Session, ask: &Ask) -> Duration {
    let Range { from, until } = ask.range;
    let question = Question::new(&ask.selection.place, "timeline")
        .with("app_service", "Total")
        .with("from", from)
        .with("until", until);
    let timeline = session.surface.read(&question).await;
    // Who may not ask for it has samples all the same.
    timeline.map_or(LONGEST, |Timeline { step }| (Duration::from_secs(step) + SETTLE).min(LONGEST))
}

/// The other pods that a policy cannot be kept away from.
async fn say_others(
    session: &Session,
    namespace: &str,
    name: &str,
    labels: &Labels,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods = session.surface.list(session.surface.pods(namespace), Some(&selector.join(","))).await?;
    let others = match pods {
        Found::Here(pods) => {
            pods.into_iter().filter(|pod| pod.metadata.name.as_deref() != Some(name)).count()
        }
        Found::Nowhere | Found::Hidden(_) => 0,
    };
    if others > 0 {
        let pods = if others == 1 { "pod" } else { "pods" };
        screen.note(&format!(
            "{others} other {pods} of {namespace} with the same labels will be sampled meanwhile as well, and not shown"
        ));
    }
    Ok(())
}

/// As a policy names them: at most as many as it may.
fn containers(pod: &Pod) -> Vec<String> {
    const MAX_CONTAINERS: usize = 64;
    let spec = pod.spec.as_ref();
    let all =
        spec.map(|spec| spec.containers.iter().map(|container| container.name.clone()).collect::<Vec<_>>());
    // Where the pod has no labels this keeps the policy from much else; otherwise all of its containers are meant.
    match &pod.metadata.labels {
        Some(labels) if !labels.is_empty() => Vec::new(),
        _ => all.filter(|all| all.len() <= MAX_CONTAINERS).unwrap_or_default(),
    }
}

fn duration(Span(seconds): Span) -> Interval {
    Interval::from_seconds(u32::try_from(seconds + SLACK_SECONDS).unwrap_or(u32::MAX))
}

/// Who is at this machine, as a label's value may be.
fn user() -> String {
    let user = std::env::var("USER").unwrap_or_default();
    let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let user: String = user.chars().filter(fits).take(63).collect();
    let user = user.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if user.is_empty() { "kubectl-hearth".to_owned() } else { user.to_owned() }
}

fn truth<'a>(status: &'a PolicyStatus, kind: &str) -> Option<&'a str> {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind);
    found.map(|condition| condition.status.as_str())
}

fn said(status: &PolicyStatus, kind: &str) -> String {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind);
    found.map(|condition| format!("{}: {}", condition.reason, condition.message)).unwrap_or_default()
}
