use super::*;

const DAY: i64 = 86_400;
/// Now, in each of these tests.
const NOW: i64 = 1_000 * DAY;

fn id(name: char) -> Fingerprint {
    Fingerprint([name as u8; 32])
}

/// A CA that began so many days ago and ends in so many.
fn ca(name: char, ago: i64, ahead: i64) -> Facts {
    Facts { id: id(name), valid: Validity { from: NOW - ago * DAY, until: NOW + ahead * DAY } }
}

fn leaf(issuer: char, ago: i64, ahead: i64) -> Leaf {
    let Facts { id, valid } = ca(issuer, ago, ahead);
    Leaf { valid, issuer: Some(id), names_fit: true }
}

fn only(current: Facts) -> Authorities {
    Authorities { current, next: None, published: None, previous: Vec::new(), rotate: false }
}

/// All is well with these CAs and this certificate.
fn settled(authorities: Authorities, leaf: Leaf) -> Seen {
    let publication = Publication {
        bundle: authorities.bundle(),
        ca_expires: Some(authorities.current.valid.until),
        collector_expires: Some(leaf.valid.until),
    };
    Seen {
        aggregated: Some(publication.bundle.clone()),
        publication: Some(publication),
        leaf: Some(leaf),
        authorities: Some(authorities),
    }
}

fn shown(step: &Step) -> String {
    let letters = |ids: &[Fingerprint]| -> String { ids.iter().map(|id| char::from(id.0[0])).collect() };
    let slot = |slot: &Slot| match slot {
        Slot::Made => "new".to_owned(),
        Slot::Kept(id) => letters(&[*id]),
    };
    match step {
        Step::Nothing => "nothing".to_owned(),
        Step::Authorities(Layout { current, next, published, previous, rotate }, why) => {
            let mut text = format!("ca {}", slot(current));
            if let Some(next) = next {
                text += &format!(", next {}", slot(next));
            }
            if let Some(published) = published {
                text += &format!(" since {}s", NOW - published);
            }
            if !previous.is_empty() {
                text += &format!(", previous {}", letters(previous));
            }
            if *rotate {
                text += ", asked for another";
            }
            format!("{text}: {why:?}")
        }
        Step::Publish(publication) => format!("publish {}", letters(&publication.bundle)),
        Step::Leaf(why) => format!("leaf: {why:?}"),
        Step::Aggregate(bundle) => format!("aggregate {}", letters(bundle)),
    }
}

fn check(seen: &Seen, expected: &str) {
    assert_eq!(shown(&plan(seen, NOW)), expected, "{seen:#?}");
}

#[test]
fn an_installation_makes_a_ca_then_publishes_it_then_signs() {
    let mut seen = Seen { publication: None, aggregated: None, leaf: None, authorities: None };
    check(&seen, "ca new: Missing");
    seen.authorities = Some(only(ca('a', 0, 365)));
    check(&seen, "publish a");
    seen.publication = Some(Publication {
        bundle: vec![id('a')],
        ca_expires: Some(NOW + 365 * DAY),
        collector_expires: None,
    });
    check(&seen, "leaf: Missing");
    seen.leaf = Some(leaf('a', 0, 30));
    // The collector's expiry is published too.
    check(&seen, "publish a");
    check(&settled(only(ca('a', 0, 365)), leaf('a', 0, 30)), "nothing");
}

#[test]
fn a_certificate_is_renewed_at_two_thirds_of_its_time() {
    let with = |leaf| settled(only(ca('a', 10, 355)), leaf);
    check(&with(leaf('a', 19, 11)), "nothing");
    check(&with(leaf('a', 20, 10)), "leaf: Due");
    check(&with(leaf('a', 31, -1)), "leaf: Expired");
    check(&with(leaf('a', 30, 0)), "leaf: Expired");
    check(&with(leaf('a', -1, 29)), "leaf: NotYetValid");
    check(&with(Leaf { names_fit: false, ..leaf('a', 1, 29) }), "leaf: OtherNames");
    check(&with(leaf('x', 1, 29)), "leaf: OtherIssuer");
    check(&with(Leaf { issuer: None, ..leaf('a', 1, 29) }), "leaf: OtherIssuer");
    check(&Seen { leaf: None, ..with(leaf('a', 1, 29)) }, "publish a");
}

#[test]
fn a_certificate_that_ends_with_its_ca_is_not_renewed_for_nothing() {
    let mut authorities = only(ca('a', 364, 1));
    authorities.next = Some(ca('b', 1, 364));
    authorities.published = Some(NOW);
    check(&settled(authorities, leaf('a', 29, 1)), "nothing");
}

#[test]
fn a_ca_is_renewed_at_two_thirds_of_its_time_in_four_writes() {
    let leaf = leaf('a', 1, 29);
    check(&settled(only(ca('a', 199, 101)), leaf), "nothing");
    check(&settled(only(ca('a', 200, 100)), leaf), "ca a, next new: Due");

    let mut authorities = Authorities { next: Some(ca('b', 0, 300)), ..only(ca('a', 200, 100)) };
    let mut seen = settled(only(ca('a', 200, 100)), leaf);
    seen.authorities = Some(authorities.clone());
    check(&seen, "publish ab");
    seen.publication = settled(authorities.clone(), leaf).publication;
    check(&seen, "aggregate ab");
    seen.aggregated = Some(vec![id('a'), id('b')]);
    check(&seen, "ca a, next b since 0s: Published");
    for (ago, expected) in [
        (0, "nothing"),
        (PROPAGATION_SECONDS - 1, "nothing"),
        (PROPAGATION_SECONDS, "ca b, previous a: Known"),
        (400 * DAY, "ca b, previous a: Known"),
    ] {
        authorities.published = Some(NOW - ago);
        check(&settled(authorities.clone(), leaf), expected);
    }
    let after = Authorities { previous: vec![ca('a', 200, 100)], ..only(ca('b', 0, 300)) };
    check(&settled(after, leaf), "leaf: OtherIssuer");
}

#[test]
fn a_next_ca_that_was_taken_from_the_publication_waits_anew() {
    let authorities = Authorities {
        next: Some(ca('b', 0, 300)),
        published: Some(NOW - PROPAGATION_SECONDS),
        ..only(ca('a', 200, 100))
    };
    let fine = settled(authorities.clone(), leaf('a', 1, 29));
    let without = settled(only(ca('a', 200, 100)), leaf('a', 1, 29)).publication;
    check(&Seen { publication: None, ..fine.clone() }, "ca a, next b: Unpublished");
    check(&Seen { publication: without.clone(), ..fine.clone() }, "ca a, next b: Unpublished");
    let unnoted = Some(Authorities { published: None, ..authorities });
    check(&Seen { publication: without, authorities: unnoted, ..fine }, "publish ab");
}

#[test]
fn a_ca_that_has_signed_stays_published_until_it_has_expired() {
    let after = |ahead| Authorities { previous: vec![ca('a', 300, ahead)], ..only(ca('b', 100, 200)) };
    check(&settled(after(1), leaf('b', 1, 29)), "nothing");
    check(&settled(after(0), leaf('b', 1, 29)), "ca b: Expired");
}

#[test]
fn an_api_server_that_is_not_told_stops_a_rotation_and_no_renewal() {
    let authorities = Authorities { next: Some(ca('b', 0, 300)), published: None, ..only(ca('a', 200, 100)) };
    let told = |leaf| Seen { aggregated: Some(vec![id('a')]), ..settled(authorities.clone(), leaf) };
    check(&told(leaf('a', 20, 10)), "leaf: Due");
    check(&told(leaf('a', 1, 29)), "aggregate ab");
    // Where it is not asked to know the collector nobody waits for it.
    check(&Seen { aggregated: None, ..told(leaf('a', 1, 29)) }, "ca a, next b since 0s: Published");
}

#[test]
fn a_rotation_can_be_asked_for() {
    let asked = Authorities { rotate: true, ..only(ca('a', 1, 364)) };
    check(&settled(asked.clone(), leaf('a', 1, 29)), "ca a, next new: Asked");
    // One after the other.
    let during = Authorities { next: Some(ca('b', 0, 365)), published: Some(NOW), ..asked.clone() };
    check(&settled(during.clone(), leaf('a', 1, 29)), "nothing");
    let over = Authorities { published: Some(NOW - PROPAGATION_SECONDS), ..during };
    check(&settled(over, leaf('a', 1, 29)), "ca b, previous a, asked for another: Known");
    let many = |n: u8| (0..n).map(|n| ca(char::from(b'1' + n), 1, 364)).collect();
    check(
        &settled(Authorities { previous: many(7), ..asked.clone() }, leaf('a', 1, 29)),
        "ca a, next new, previous 1234567: Asked",
    );
    check(&settled(Authorities { previous: many(8), ..asked }, leaf('a', 1, 29)), "nothing");
}

#[test]
fn a_ca_that_nobody_can_verify_is_replaced_at_once() {
    let leaf = leaf('a', 1, 29);
    check(&settled(only(ca('a', 365, 0)), leaf), "ca new: Expired");
    // One that a clock ahead of ours has made. What it signed may be in use by others.
    check(&settled(only(ca('a', -1, 364)), leaf), "ca new, previous a: NotYetValid");
    let with_next = |next| Authorities { next: Some(next), published: Some(NOW), ..only(ca('a', 365, 0)) };
    check(&settled(with_next(ca('b', 1, 364)), leaf), "ca b: Expired");
    check(&settled(with_next(ca('b', 400, -1)), leaf), "ca new: Expired");
    let unusable = Authorities { next: Some(ca('b', -9, 364)), ..only(ca('a', 1, 364)) };
    check(&settled(unusable, leaf), "ca a, next new: NotYetValid");
}

#[test]
fn a_clock_that_was_set_back_costs_ten_minutes() {
    let future =
        Authorities { next: Some(ca('b', 0, 300)), published: Some(NOW + 1), ..only(ca('a', 200, 100)) };
    check(&settled(future, leaf('a', 1, 29)), "ca a, next b since 0s: Published");
}

#[test]
fn whatever_is_published_wrongly_is_published_again() {
    let fine = settled(only(ca('a', 1, 364)), leaf('a', 1, 29));
    let publication = fine.publication.clone();
    let with = |change: &dyn Fn(&mut Publication)| {
        let mut publication = publication.clone();
        publication.iter_mut().for_each(change);
        Seen { publication, ..fine.clone() }
    };
    check(&with(&|publication| publication.bundle.push(id('x'))), "publish a");
    check(&with(&|publication| publication.bundle.clear()), "publish a");
    check(&with(&|publication| publication.ca_expires = None), "publish a");
    check(&with(&|publication| publication.collector_expires = Some(0)), "publish a");
    check(&Seen { aggregated: Some(Vec::new()), ..fine.clone() }, "aggregate a");
    check(&Seen { publication: None, ..fine }, "publish a");
}

#[test]
fn no_time_in_a_certificate_makes_it_overflow() {
    let ends = [i64::MIN, i64::MIN + 1, -1, 0, 1, NOW, i64::MAX - 1, i64::MAX];
    for (from, until) in ends.iter().flat_map(|from| ends.map(|until| (*from, until))) {
        let valid = Validity { from, until };
        let current = Facts { id: id('a'), valid };
        let leaf = Leaf { valid, issuer: Some(id('a')), names_fit: true };
        let authorities = Authorities { next: Some(current), published: Some(from), ..only(current) };
        for now in [0, NOW, i64::MAX] {
            let seen = settled(authorities.clone(), leaf);
            let _ = (plan(&seen, now), plan_own(&seen, Some(&leaf), now));
        }
    }
}

#[test]
fn a_replica_makes_its_own_with_a_ca_that_is_published() {
    let seen = settled(only(ca('a', 1, 364)), leaf('a', 1, 29));
    assert_eq!(plan_own(&seen, None, NOW), Own::Make(Why::Missing));
    assert_eq!(plan_own(&seen, Some(&leaf('a', 1, 29)), NOW), Own::Keep);
    assert_eq!(plan_own(&seen, Some(&leaf('a', 20, 10)), NOW), Own::Make(Why::Due));
    assert_eq!(plan_own(&seen, Some(&leaf('b', 1, 29)), NOW), Own::Make(Why::OtherIssuer));
    let unpublished = Seen { publication: None, ..seen.clone() };
    assert_eq!(plan_own(&unpublished, None, NOW), Own::Wait("the CA is not published yet"));
    // It has one that will do meanwhile.
    assert_eq!(plan_own(&unpublished, Some(&leaf('a', 1, 29)), NOW), Own::Keep);
    let nothing = Seen { authorities: None, ..seen };
    assert_eq!(plan_own(&nothing, None, NOW), Own::Wait("there is no CA yet"));
    let expired = settled(only(ca('a', 364, 0)), leaf('a', 1, 29));
    assert!(matches!(plan_own(&expired, None, NOW), Own::Wait(why) if why.starts_with("the CA has expired")));
}
