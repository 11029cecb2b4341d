//! The objects: what is in them, and how they are written.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

use super::issue::IssueError;
use super::plan::{Authorities, Fingerprint, Layout, Publication, Slot, Unix};
use super::read::{self, Certificate, Pair, Unreadable};

/// On the Secret with the CA, set by whoever wants a new one.
pub(super) const ROTATE: &str = "hearth.dev/rotate";
/// On the ConfigMap, for people and the plugin.
pub(super) const CA_EXPIRES: &str = "hearth.dev/ca-expires";
/// On the ConfigMap too: its own Secret is for few to read.
pub(super) const COLLECTOR_EXPIRES: &str = "hearth.dev/collector-certificate-expires";
/// On the Secret with the CA.
const NEXT_PUBLISHED: &str = "hearth.dev/next-published";
/// Label of what is ours to write.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub(super) const MANAGER: &str = "hearth-operator";

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PREVIOUS_CERTIFICATES: &str = "previous.crt";
const LEAF_CERTIFICATE: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";
const TLS: &str = "kubernetes.io/tls";

/// The CAs, with keys where they sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    current: Pair,
    next: Option<Pair>,
    published: Option<Unix>,
    previous: Vec<Certificate>,
    rotate: bool,
}

/// What a new object has in its metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Created<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) owner: Option<&'a OwnerReference>,
}

/// Whether an object may be written, as it was made by an operator.
pub(super) fn ours(metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

impl Stored {
    pub(super) fn read(secret: &Secret) -> Result<Self, Unreadable> {
        let bytes = |key| secret.data.as_ref()?.get(key).map(|value| &*value.0);
        let current = read::pair(
            bytes(CA_CERTIFICATE).ok_or(Unreadable::Missing(CA_CERTIFICATE))?,
            bytes(CA_KEY).ok_or(Unreadable::Missing(CA_KEY))?,
        )?;
        let next = match (bytes(NEXT_CERTIFICATE), bytes(NEXT_KEY)) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(read::pair(certificate, key)?.authority()?),
            (None, Some(_)) => return Err(Unreadable::Missing(NEXT_CERTIFICATE)),
            (Some(_), None) => return Err(Unreadable::Missing(NEXT_KEY)),
        };
        let previous = read::certificates(bytes(PREVIOUS_CERTIFICATES).unwrap_or_default())?;
        let annotation = |name| secret.metadata.annotations.as_ref()?.get(name);
        Ok(Self {
            current: current.authority()?,
            next,
            published: annotation(NEXT_PUBLISHED).map(|text| time(NEXT_PUBLISHED, text)).transpose()?,
            previous: previous.into_iter().map(Certificate::authority).collect::<Result<_, _>>()?,
            rotate: annotation(ROTATE).is_some(),
        })
    }

    /// Signs what is made.
    pub(super) fn current(&self) -> &Pair {
        &self.current
    }

    /// All of them.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        let Self { current, next, previous, .. } = self;
        let pairs = std::iter::once(current).chain(next);
        pairs.map(|pair| &pair.certificate).chain(previous)
    }

    /// As the plan sees them.
    pub(super) fn facts(&self) -> Authorities {
        let Self { current, next, published, previous, rotate } = self;
        Authorities {
            current: current.certificate.facts(),
            next: next.as_ref().map(|next| next.certificate.facts()),
            published: *published,
            previous: previous.iter().map(Certificate::facts).collect(),
            rotate: *rotate,
        }
    }

    /// In PEM, one after the other.
    pub(super) fn bundle(&self, wanted: &[Fingerprint]) -> String {
        let found = |id: &Fingerprint| self.certificates().find(|certificate| certificate.facts().id == *id);
        wanted.iter().filter_map(found).map(Certificate::pem).collect()
    }

    /// What is there, arranged as the plan wants it; what it lacks is made.
    pub(super) fn arranged(
        before: Option<Self>,
        layout: Layout,
        make: impl Fn() -> Result<Pair, IssueError>,
    ) -> Result<Self, IssueError> {
        let Layout { current, next, published, previous, rotate } = layout;
        let known: Vec<Certificate> =
            before.iter().flat_map(|stored| stored.certificates().cloned()).collect();
        let pairs: Vec<Pair> = before
            .into_iter()
            .flat_map(|stored| std::iter::once(stored.current).chain(stored.next))
            .collect();
        let fill = |slot| match slot {
            Slot::Made => make(),
            Slot::Kept(id) => {
                let kept = pairs.iter().find(|pair| pair.certificate.facts().id == id);
                // A plan names what it was shown. Were it not so, a new one would do too.
                kept.map_or_else(&make, |pair| Ok(pair.clone()))
            }
        };
        Ok(Self {
            current: fill(current)?,
            next: next.map(fill).transpose()?,
            published,
            previous: known
                .into_iter()
                .filter(|certificate| previous.contains(&certificate.facts().id))
                .collect(),
            rotate,
        })
    }

    /// The Secret with them, in the place of `before`.
    pub(super) fn secret(&self, before: Option<Secret>, created: Created<'_>) -> Secret {
        let Self { current, next, published, previous, rotate } = self;
        let mut secret = before.unwrap_or_else(|| Secret {
            metadata: created.metadata(),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        });
        let mut data = BTreeMap::from([
            (CA_CERTIFICATE.to_owned(), text(current.certificate.pem())),
            (CA_KEY.to_owned(), text(current.key.secret())),
        ]);
        if let Some(next) = next {
            data.insert(NEXT_CERTIFICATE.to_owned(), text(next.certificate.pem()));
            data.insert(NEXT_KEY.to_owned(), text(next.key.secret()));
        }
        if !previous.is_empty() {
            let pem: String = previous.iter().map(Certificate::pem).collect();
            data.insert(PREVIOUS_CERTIFICATES.to_owned(), text(&pem));
        }
        secret.data = Some(data);
        annotate(&mut secret.metadata, NEXT_PUBLISHED, *published);
        if !rotate {
            annotate(&mut secret.metadata, ROTATE, None);
        }
        secret
    }
}

/// Reads the collector's certificate.
pub(super) fn read_leaf(secret: &Secret) -> Result<Pair, Unreadable> {
    let bytes = |key| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value.map(|value| &*value.0).ok_or(Unreadable::Missing(key))
    };
    read::pair(bytes(LEAF_CERTIFICATE)?, bytes(LEAF_KEY)?)
}

/// The Secret with the collector's certificate.
pub(super) fn leaf_secret(pair: &Pair, before: Option<Secret>, created: Created<'_>) -> Secret {
    let secret = before.unwrap_or_else(|| Secret {
        metadata: created.metadata(),
        type_: Some(TLS.to_owned()),
        ..Secret::default()
    });
    let data = BTreeMap::from([
        (LEAF_CERTIFICATE.to_owned(), text(pair.certificate.pem())),
        (LEAF_KEY.to_owned(), text(pair.key.secret())),
    ]);
    Secret { data: Some(data), ..secret }
}

/// Reads what is published; `None` where that is not what an operator writes.
pub(super) fn read_publication(map: &ConfigMap) -> Option<Publication> {
    let bundle = read::certificates(map.data.as_ref()?.get(CA_CERTIFICATE)?.as_bytes()).ok()?;
    let expires = |name| {
        let annotation = map.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
        annotation.map(|text| time(name, text)).transpose().ok()
    };
    Some(Publication {
        bundle: bundle.iter().map(|certificate| certificate.facts().id).collect(),
        ca_expires: expires(CA_EXPIRES)?,
        collector_expires: expires(COLLECTOR_EXPIRES)?,
    })
}

/// The ConfigMap that publishes this.
pub(super) fn publication_map(
    publication: &Publication,
    stored: &Stored,
    before: Option<ConfigMap>,
    created: Created<'_>,
) -> ConfigMap {
    let Publication { bundle, ca_expires, collector_expires } = publication;
    let mut map =
        before.unwrap_or_else(|| ConfigMap { metadata: created.metadata(), ..ConfigMap::default() });
    map.data.get_or_insert_default().insert(CA_CERTIFICATE.to_owned(), stored.bundle(bundle));
    annotate(&mut map.metadata, CA_EXPIRES, *ca_expires);
    annotate(&mut map.metadata, COLLECTOR_EXPIRES, *collector_expires);
    map
}

impl Created<'_> {
    fn metadata(self) -> ObjectMeta {
        let Self { namespace, name, owner } = self;
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([
                (MANAGED_BY.to_owned(), MANAGER.to_owned()),
                ("app.kubernetes.io/part-of".to_owned(), "hearth".to_owned()),
            ])),
            owner_references: owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        }
    }
}

fn text(pem: &str) -> ByteString {
    ByteString(pem.as_bytes().to_vec())
}

fn annotate(metadata: &mut ObjectMeta, name: &str, at: Option<Unix>) {
    let annotations = metadata.annotations.get_or_insert_default();
    match at.and_then(rfc3339) {
        Some(text) => annotations.insert(name.to_owned(), text),
        None => annotations.remove(name),
    };
    if annotations.is_empty() {
        metadata.annotations = None;
    }
}

/// `None` beyond the year 9999, which no certificate can name.
pub(super) fn rfc3339(at: Unix) -> Option<String> {
    Timestamp::from_second(at).ok().map(|time| time.to_string())
}

fn time(name: &'static str, text: &str) -> Result<Unix, Unreadable> {
    text.parse::<Timestamp>().map(Timestamp::as_second).map_err(|_| Unreadable::Time(name))
}
