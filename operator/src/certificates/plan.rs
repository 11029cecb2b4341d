//! What is to be done next: from what is there and the time alone.
//!
//! A CA is `next` first: published, so that whoever verifies gets to know it, and signing nothing. When it has been
//! published for [`PROPAGATION_SECONDS`] it becomes `current`, and everything is signed anew. What was current
//! before is `previous`: its key is gone, and it stays published until it has expired. No certificate outlives the
//! CA that signed it, so whatever is served by whomever can be verified by everybody, however long a replica slept.

use std::fmt;

/// Seconds since 1970.
pub type Unix = i64;

/// For so long a CA is published before it signs: kubelets write a changed ConfigMap into their pods within their
/// sync period and the life of their cache, a minute each, and are given time to be slow.
pub const PROPAGATION_SECONDS: i64 = 10 * 60;
/// CAs that do not sign any more. A rotation that is asked for waits while there are so many.
pub const MAX_PREVIOUS: usize = 8;

/// Which certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// From when until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from: Unix,
    /// From this second on it is expired.
    pub until: Unix,
}

/// A certificate of a CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Which.
    pub id: Fingerprint,
    /// When.
    pub valid: Validity,
}

/// What the Secret with the CA has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// Signs.
    pub current: Facts,
    /// Will.
    pub next: Option<Facts>,
    /// Since when the next one is known to be published.
    pub published: Option<Unix>,
    /// Have signed; the last one first.
    pub previous: Vec<Facts>,
    /// Somebody has asked for a new one.
    pub rotate: bool,
}

/// A certificate that is not a CA's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// When.
    pub valid: Validity,
    /// Which of our CAs signed it.
    pub issuer: Option<Fingerprint>,
    /// It is for the names that it has to be for, and no others.
    pub names_fit: bool,
}

/// What everybody may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// CAs to trust.
    pub bundle: Vec<Fingerprint>,
    /// When the current one expires.
    pub ca_expires: Option<Unix>,
    /// When the collector's certificate does.
    pub collector_expires: Option<Unix>,
}

/// What is there, `None` where there is nothing that can be used. Read in this order: what is written follows from
/// CAs that are newer than what it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// In the ConfigMap.
    pub publication: Option<Publication>,
    /// By which the API server knows the collector; `None` where it is not asked to.
    pub aggregated: Option<Vec<Fingerprint>>,
    /// The collector's.
    pub leaf: Option<Leaf>,
    /// In the Secret.
    pub authorities: Option<Authorities>,
}

/// What to do; then to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All is as it should be.
    Nothing,
    /// Write the Secret with the CA.
    Authorities(Layout, Why),
    /// Write the ConfigMap.
    Publish(Publication),
    /// Make a certificate for the collector.
    Leaf(Why),
    /// Tell the API server.
    Aggregate(Vec<Fingerprint>),
}

/// What the Secret is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// As in [`Authorities`].
    pub current: Slot,
    /// As in [`Authorities`].
    pub next: Option<Slot>,
    /// As in [`Authorities`].
    pub published: Option<Unix>,
    /// As in [`Authorities`].
    pub previous: Vec<Fingerprint>,
    /// As in [`Authorities`].
    pub rotate: bool,
}

/// A CA with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// This one, which is there.
    Kept(Fingerprint),
    /// A new one.
    Made,
}

/// Why a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is none that can be used.
    Missing,
    /// Two thirds of its time are over.
    Due,
    /// All of it is.
    Expired,
    /// Its time has not begun, by this machine's clock.
    NotYetValid,
    /// Somebody has asked for it.
    Asked,
    /// It is for other names.
    OtherNames,
    /// It is not signed by the current CA.
    OtherIssuer,
    /// The next CA is published.
    Published,
    /// It no longer is.
    Unpublished,
    /// Everybody knows the next CA by now.
    Known,
}

/// What a replica does about its own certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It goes on with the one that it has.
    Keep,
    /// It makes one.
    Make(Why),
    /// It has none, or one that will not do for long, and none can be made yet.
    Wait(&'static str),
}

/// The next step.
pub fn plan(seen: &Seen, now: Unix) -> Step {
    let Some(authorities) = &seen.authorities else {
        return Step::Authorities(Layout::first(), Why::Missing);
    };
    let wanted = Publication {
        bundle: authorities.bundle(),
        ca_expires: Some(authorities.current.valid.until),
        collector_expires: seen.leaf.map(|leaf| leaf.valid.until),
    };
    if let Some((layout, why)) = authorities.upkeep(now) {
        return Step::Authorities(layout, why);
    }
    if seen.publication.as_ref() != Some(&wanted) {
        let bundle = seen.publication.as_ref().map_or(&[][..], |publication| &publication.bundle);
        // Somebody has taken the next one away: its time begins anew, before it is published again.
        return authorities
            .no_longer_published(bundle)
            .map_or(Step::Publish(wanted), |layout| Step::Authorities(layout, Why::Unpublished));
    }
    if let Some(why) = why_another(seen.leaf.as_ref(), &authorities.current, now) {
        return Step::Leaf(why);
    }
    // After the certificate: an API server that refuses this stops a rotation, but no renewal.
    if seen.aggregated.as_ref().is_some_and(|bundle| *bundle != wanted.bundle) {
        return Step::Aggregate(wanted.bundle);
    }
    authorities.hand_over(now).map_or(Step::Nothing, |(layout, why)| Step::Authorities(layout, why))
}

/// What a replica does about the certificate that it serves, `own`. It makes it by itself, and so never with a CA
/// that is not published yet.
pub fn plan_own(seen: &Seen, own: Option<&Leaf>, now: Unix) -> Own {
    let Some(Authorities { current, .. }) = &seen.authorities else {
        return Own::Wait("there is no CA yet");
    };
    let Some(why) = why_another(own, current, now) else {
        return Own::Keep;
    };
    if !current.valid.covers(now) {
        return Own::Wait("the CA has expired, or is not valid yet by this machine's clock");
    }
    match &seen.publication {
        Some(publication) if publication.bundle.contains(&current.id) => Own::Make(why),
        Some(_) | None => Own::Wait("the CA is not published yet"),
    }
}

/// Why a certificate has to be made, if it has to.
fn why_another(leaf: Option<&Leaf>, current: &Facts, now: Unix) -> Option<Why> {
    let Some(Leaf { valid, issuer, names_fit }) = leaf else { return Some(Why::Missing) };
    if !names_fit {
        Some(Why::OtherNames)
    } else if *issuer != Some(current.id) {
        Some(Why::OtherIssuer)
    } else if valid.until >= current.valid.until {
        // Another one could not end later.
        None
    } else {
        valid.why_over(now)
    }
}

impl Validity {
    /// It is valid now.
    pub fn covers(self, now: Unix) -> bool {
        (self.from..self.until).contains(&now)
    }

    /// Why another one is needed, if it is.
    fn why_over(self, now: Unix) -> Option<Why> {
        let Self { from, until } = self;
        // Without overflow, whatever is written in a certificate.
        let (from_, until_, now_) = (i128::from(from), i128::from(until), i128::from(now));
        if now < from {
            Some(Why::NotYetValid)
        } else if now >= until {
            Some(Why::Expired)
        } else if (now_ - from_) * 3 >= (until_ - from_) * 2 {
            Some(Why::Due)
        } else {
            None
        }
    }
}

impl Layout {
    fn first() -> Self {
        Self { current: Slot::Made, next: None, published: None, previous: Vec::new(), rotate: false }
    }
}

impl Authorities {
    /// What is to be trusted.
    fn bundle(&self) -> Vec<Fingerprint> {
        let Self { current, next, previous, published: _, rotate: _ } = self;
        std::iter::once(current).chain(next).chain(previous).map(|facts| facts.id).collect()
    }

    fn layout(&self) -> Layout {
        let Self { current, next, published, previous, rotate } = self;
        Layout {
            current: Slot::Kept(current.id),
            next: next.map(|next| Slot::Kept(next.id)),
            published: *published,
            previous: previous.iter().map(|facts| facts.id).collect(),
            rotate: *rotate,
        }
    }

    /// What does not wait for anything.
    fn upkeep(&self, now: Unix) -> Option<(Layout, Why)> {
        let over = self.current.valid.why_over(now);
        let usable = self.next.filter(|next| next.valid.covers(now));
        if let Some(why @ (Why::Expired | Why::NotYetValid)) = over {
            // Nothing is verified by the current one: there is nobody to wait for.
            return Some((
                self.succeeded_by(usable.map_or(Slot::Made, |next| Slot::Kept(next.id)), now),
                why,
            ));
        }
        if self.previous.iter().any(|facts| now >= facts.valid.until) {
            return Some((Layout { previous: self.trusted_still(now), ..self.layout() }, Why::Expired));
        }
        let asked = self.rotate && self.previous.len() < MAX_PREVIOUS;
        let why = match over {
            _ if usable.is_some() => return None,
            Some(why) => why,
            None if asked => Why::Asked,
            None if self.next.is_some() => Why::NotYetValid,
            None => return None,
        };
        let layout = self.layout();
        Some((
            Layout { next: Some(Slot::Made), published: None, rotate: self.rotate && !asked, ..layout },
            why,
        ))
    }

    fn no_longer_published(&self, bundle: &[Fingerprint]) -> Option<Layout> {
        let next = self.next.filter(|_| self.published.is_some())?;
        (!bundle.contains(&next.id)).then(|| Layout { published: None, ..self.layout() })
    }

    /// What waits until the next CA is known everywhere.
    fn hand_over(&self, now: Unix) -> Option<(Layout, Why)> {
        let next = self.next?;
        match self.published {
            // In the future: a clock was set back. It costs ten minutes.
            Some(published) if published <= now => (now.saturating_sub(published) >= PROPAGATION_SECONDS)
                .then(|| (self.succeeded_by(Slot::Kept(next.id), now), Why::Known)),
            Some(_) | None => Some((Layout { published: Some(now), ..self.layout() }, Why::Published)),
        }
    }

    fn succeeded_by(&self, current: Slot, now: Unix) -> Layout {
        let last = (now < self.current.valid.until).then_some(self.current.id);
        let previous = last.into_iter().chain(self.trusted_still(now)).collect();
        Layout { current, next: None, published: None, previous, rotate: self.rotate }
    }

    fn trusted_still(&self, now: Unix) -> Vec<Fingerprint> {
        self.previous.iter().filter(|facts| now < facts.valid.until).map(|facts| facts.id).collect()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there was none that can be used",
            Self::Due => "two thirds of the last one's time are over",
            Self::Expired => "the last one has expired",
            Self::NotYetValid => "the last one is not valid yet, by this machine's clock",
            Self::Asked => "it was asked for",
            Self::OtherNames => "the last one was for other names",
            Self::OtherIssuer => "the last one was not signed by the current CA",
            Self::Published => "the next CA is published",
            Self::Unpublished => "the next CA is no longer published",
            Self::Known => "the next CA has been published for long enough",
        })
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
