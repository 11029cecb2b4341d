//! Filters that would widen what is seen.

use hearth_collector::query::Limits;

use crate::common::{Collector, single_threaded};
use crate::questions::{Endpoint, FILTERED, Question, leaks};
use crate::tenants::{OWN_VALUES, RANGES, own, stored};

/// A filter, and what all of the app and all of Total add up to by it; none if it is not understood.
const FILTERS: [(&str, Option<[i64; 2]>); 16] = [
    ("pod_ns = 'theirs-9'", Some([0, 0])),
    ("pod_ns = ''", Some([0, 0])),
    ("NOT pod_ns = 'a'", Some([0, 0])),
    ("pod_cluster = 'cluster-9'", Some([0, 0])),
    ("pod_cluster != 'own' OR pod_ns != 'a'", Some([0, 0])),
    ("pod_ns = 'a' OR pod_ns = 'theirs-9'", Some(OWN_VALUES)),
    ("pod_ns = 'theirs-9' OR NOT pod_ns = 'theirs-9'", Some(OWN_VALUES)),
    ("((((((pod_ns IN ('a', 'theirs-9', '')))) OR ((pod_cluster = 'cluster-9')))))", Some(OWN_VALUES)),
    ("NOT (NOT (pod_ns = 'theirs-9') AND NOT (pod_ns LIKE '*'))", Some(OWN_VALUES)),
    ("process_id >= 0 OR process_id < 0", Some(OWN_VALUES)),
    ("pod_ns = 'theirs-9' OR 1=1", None),
    ("pod_ns = 'a') OR (1=1", None),
    ("pod_ns = 'a') OR (pod_ns = 'theirs-9'", None),
    ("pod_ns = 'a' UNION ALL SELECT 1", None),
    ("pod_ns IN (SELECT pod_ns FROM profile.in_process_local)", None),
    ("pod_ns = 'a' -- ", None),
];

#[tokio::test]
async fn a_filter_only_narrows() {
    stored().await;
    let collector = Collector::start_for(own(), single_threaded(), Limits::default()).await;
    for (filter, expected) in FILTERS {
        for (at, subject) in ["shop", "Total"].into_iter().enumerate() {
            for (_, from, until) in &RANGES[..3] {
                let question = Question {
                    endpoint: Endpoint::Flamegraph("json"),
                    tag: "pod_ns",
                    filter: filter.to_owned(),
                    subject,
                    from: *from,
                    until: *until,
                };
                let reply = question.ask(&collector).await;
                let total = (reply.status == 200)
                    .then(|| reply.json()["nodes"][0]["total"].as_i64().unwrap_or_default());
                // Rollups do not have every tag.
                let expected = expected.map(|expected| expected[at]);
                let lacking = reply.text.contains("only rollups are stored, which lack it");
                assert_eq!(total, if lacking { Some(0) } else { expected }, "{filter}: {}", reply.text);
            }
        }
    }
}

#[tokio::test]
async fn whatever_is_tried_shows_nothing_of_others() {
    stored().await;
    let collector = Collector::start_for(own(), single_threaded(), Limits::default()).await;
    for endpoint in FILTERED {
        for (filter, expected) in FILTERS {
            let (_, from, until) = RANGES[0];
            let filter = filter.to_owned();
            let question = Question { endpoint, tag: "pod", filter, subject: "Total", from, until };
            let reply = question.ask(&collector).await;
            assert_eq!(reply.status == 400, expected.is_none(), "{question:?}: {}", reply.text);
            assert_eq!(leaks(&reply), [""; 0], "{question:?}");
        }
    }
}
