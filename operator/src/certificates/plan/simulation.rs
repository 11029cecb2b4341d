//! Five years of several operators that all believe to hold the lease, sleep between any two requests, crash, and are
//! asked for new CAs: whatever is served can be verified by everybody.

use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const START: i64 = 20_000 * DAY;
const YEARS: i64 = 5 * 365 * DAY;
const CA_LIFE: i64 = 365 * DAY;
const LEAF_LIFE: i64 = 30 * DAY;
/// A kubelet is so late at most, with the bundle for an agent or the certificate for the collector.
const KUBELET: i64 = 10 * MINUTE;
/// An operator sleeps between two requests at most so long.
const MAX_SLEEP: i64 = DAY;

/// An object of the API server, and all of its versions.
#[derive(Debug, Clone)]
struct Object<T>(Vec<(i64, T)>);

impl<T: Clone> Object<T> {
    fn version(&self) -> usize {
        self.0.len()
    }

    fn now(&self) -> Option<T> {
        self.0.last().map(|(_, value)| value.clone())
    }

    /// What kubelets may have in pods.
    fn in_pods(&self, now: i64) -> impl Iterator<Item = &T> {
        let since = self.0.partition_point(|(at, _)| *at <= now - KUBELET);
        self.0[since.saturating_sub(1)..].iter().map(|(_, value)| value)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Versions {
    publication: usize,
    aggregated: usize,
    leaf: usize,
    authorities: usize,
}

#[derive(Debug, Clone)]
struct World {
    now: i64,
    made: u64,
    publication: Object<Publication>,
    aggregated: Object<Vec<Fingerprint>>,
    leaf: Object<Leaf>,
    authorities: Object<Authorities>,
    /// Every CA that was ever made.
    known: Vec<Facts>,
}

/// How far an operator has come with reading.
#[derive(Debug, Clone)]
struct Operator {
    step: usize,
    seen: Seen,
    versions: Versions,
    own: Option<Leaf>,
}

impl Operator {
    fn new() -> Self {
        let seen = Seen { publication: None, aggregated: None, leaf: None, authorities: None };
        Self { step: 0, seen, versions: Versions::default(), own: None }
    }

    /// One request.
    fn go_on(&mut self, world: &mut World) {
        let Self { step, seen, versions, own } = self;
        match step {
            0 => {
                (seen.publication, versions.publication) =
                    (world.publication.now(), world.publication.version())
            }
            1 => {
                (seen.aggregated, versions.aggregated) = (world.aggregated.now(), world.aggregated.version())
            }
            2 => (seen.leaf, versions.leaf) = (world.leaf.now(), world.leaf.version()),
            3 => {
                (seen.authorities, versions.authorities) =
                    (world.authorities.now(), world.authorities.version());
                if let (Own::Make(_), Some(authorities)) =
                    (plan_own(seen, own.as_ref(), world.now), &seen.authorities)
                {
                    *own = Some(world.leaf_by(&authorities.current));
                }
            }
            _ => world.take(plan(seen, world.now), seen, *versions),
        }
        *step = (*step + 1) % 5;
    }
}

impl World {
    fn new() -> Self {
        Self {
            now: START,
            made: 0,
            publication: Object(Vec::new()),
            // The collector is registered with the API server.
            aggregated: Object(vec![(START, Vec::new())]),
            leaf: Object(Vec::new()),
            authorities: Object(Vec::new()),
            known: Vec::new(),
        }
    }

    fn valid(&self, life: i64) -> Validity {
        Validity { from: self.now - 5 * MINUTE, until: self.now + life }
    }

    fn leaf_by(&self, ca: &Facts) -> Leaf {
        let Validity { from, until } = self.valid(LEAF_LIFE);
        let valid = Validity { from, until: until.min(ca.valid.until) };
        Leaf { valid, issuer: Some(ca.id), names_fit: true }
    }

    /// Somebody wants a new CA.
    fn ask(&mut self) {
        if let Some(authorities) = self.authorities.now() {
            self.authorities.0.push((self.now, Authorities { rotate: true, ..authorities }));
        }
    }

    /// Writes what was planned, unless somebody else has written since it was read.
    fn take(&mut self, step: Step, seen: &Seen, versions: Versions) {
        let now = self.now;
        match (step, &seen.authorities) {
            (Step::Authorities(layout, _), before) if versions.authorities == self.authorities.version() => {
                let authorities = self.arranged(layout, before.as_ref());
                self.authorities.0.push((now, authorities));
            }
            (Step::Publish(publication), _) if versions.publication == self.publication.version() => {
                self.publication.0.push((now, publication));
            }
            (Step::Aggregate(bundle), _) if versions.aggregated == self.aggregated.version() => {
                self.aggregated.0.push((now, bundle));
            }
            (Step::Leaf(_), Some(authorities)) if versions.leaf == self.leaf.version() => {
                self.leaf.0.push((now, self.leaf_by(&authorities.current)));
            }
            _ => {}
        }
    }

    fn arranged(&mut self, layout: Layout, before: Option<&Authorities>) -> Authorities {
        let Layout { current, next, published, previous, rotate } = layout;
        let held: Vec<Facts> =
            before.iter().flat_map(|before| std::iter::once(before.current).chain(before.next)).collect();
        let mut fill = |slot| match slot {
            // Only a key that is still there can sign.
            Slot::Kept(id) => *held.iter().find(|facts| facts.id == id).expect("a CA whose key is held"),
            Slot::Made => {
                self.made += 1;
                let mut id = [0; 32];
                id[..8].copy_from_slice(&self.made.to_be_bytes());
                let facts = Facts { id: Fingerprint(id), valid: self.valid(CA_LIFE) };
                self.known.push(facts);
                facts
            }
        };
        let (current, next) = (fill(current), next.map(fill));
        let previous = self.known.iter().filter(|facts| previous.contains(&facts.id)).copied().collect();
        Authorities { current, next, published, previous, rotate }
    }

    /// Somebody serves something that somebody cannot verify.
    fn trouble(&self, operators: &[Operator]) -> Option<String> {
        let own = operators.iter().filter_map(|operator| operator.own.as_ref());
        let served: Vec<&Leaf> = self.leaf.in_pods(self.now).chain(own).collect();
        // The API server knows what it is told at once; kubelets need their time.
        let aggregated = self.aggregated.now().filter(|_| !self.leaf.0.is_empty());
        let bundles = self.publication.in_pods(self.now).map(|publication| publication.bundle.clone());
        let known = |bundle: &[Fingerprint], leaf: &Leaf| {
            let issuer = self.known.iter().find(|facts| Some(facts.id) == leaf.issuer);
            issuer.is_some_and(|ca| {
                bundle.contains(&ca.id) && ca.valid.covers(self.now) && leaf.valid.covers(self.now)
            })
        };
        for bundle in bundles {
            if let Some(leaf) = served.iter().find(|leaf| !known(&bundle, leaf)) {
                return Some(format!("day {}: {leaf:?} by {bundle:?}", (self.now - START) / DAY));
            }
        }
        let told = aggregated.filter(|bundle| !bundle.is_empty())?;
        let unknown = self.leaf.in_pods(self.now).find(|leaf| !known(&told, leaf))?;
        Some(format!("day {}: {unknown:?} by the API server with {told:?}", (self.now - START) / DAY))
    }
}

/// Small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// How many CAs there were.
fn five_years(seed: u64) -> Result<usize, String> {
    let (mut random, mut world, mut chosen) = (Random(seed | 1), World::new(), 0);
    let mut operators = vec![Operator::new(), Operator::new(), Operator::new()];
    while world.now < START + YEARS {
        let sleep = match random.below(16) {
            0 => random.below(MAX_SLEEP.unsigned_abs()),
            1..4 => random.below(20 * MINUTE.unsigned_abs()),
            _ => random.below(3),
        };
        world.now += i64::try_from(sleep).unwrap_or(0);
        // Just before anybody does anything about it.
        world.trouble(&operators).map_or(Ok(()), Err)?;
        // Some requests of one, while the others sleep.
        if random.below(4) == 0 {
            chosen = usize::try_from(random.below(3)).unwrap_or(0);
        }
        match random.below(1500) {
            0 => world.ask(),
            1..30 => operators[chosen] = Operator::new(),
            _ => operators[chosen].go_on(&mut world),
        }
        world.trouble(&operators).map_or(Ok(()), Err)?;
    }
    Ok(world.known.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn for_five_years_whatever_is_served_can_be_verified_by_everybody(seed: u64) {
        let authorities = five_years(seed).map_err(TestCaseError::fail)?;
        // A new one each eight months, if not sooner.
        prop_assert!(authorities >= 7, "{authorities} CAs");
    }
}
