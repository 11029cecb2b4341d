//! What the operator told last, on disk: a node starts from it while the operator is away.
//!
//! A file for each kind of message: a line of text, such as `hearth-config 1 CHECKSUM`, then the message as
//! it is on the wire.

use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::path::PathBuf;

use hearth_proto::config::v1::{Config, Directory};
use hearth_proto::config_limits::MAX_UPDATE_BYTES;
use prost::Message;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use crate::state_dir::{StateDir, read, replace};

/// Grows with every change that an older agent would misread.
const VERSION: u32 = 1;

/// A message that is kept.
pub trait Kept: Message + Default + Clone {
    /// What its file is called.
    const NAME: &'static str;
}

/// The last configuration that was good.
impl Kept for Config {
    const NAME: &'static str = "config";
}

/// The last answer about other objects.
impl Kept for Directory {
    const NAME: &'static str = "directory";
}

/// Where a message is kept.
#[derive(Clone, Debug)]
pub struct Store<M> {
    path: PathBuf,
    message: PhantomData<fn() -> M>,
}

impl<M: Kept> Store<M> {
    /// In this folder.
    pub fn new(state: &StateDir) -> Self {
        Self { path: state.file(M::NAME), message: PhantomData }
    }

    /// What was kept last; `None` if that is nothing, or nothing that this agent can read, which is logged.
    pub fn load(&self) -> Option<M> {
        match self.read() {
            Ok(message) => Some(message),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                warn!("{}: {error}; it is left aside until the operator sends another", self.path.display());
                None
            }
        }
    }

    fn format() -> String {
        format!("hearth-{} {VERSION}", M::NAME)
    }

    fn read(&self) -> io::Result<M> {
        let bad = |problem: String| io::Error::new(ErrorKind::InvalidData, problem);
        let bytes = read(&self.path, (MAX_UPDATE_BYTES + 64) as u64)?;
        let line_end = bytes.iter().take(64).position(|byte| *byte == b'\n');
        let (head, body) = bytes.split_at(line_end.unwrap_or(0));
        let body = body.get(1..).unwrap_or_default();
        let head = std::str::from_utf8(head).unwrap_or_default();
        let ours = Self::format();
        let checksum = match head.rsplit_once(' ') {
            Some((format, checksum)) if format == ours => checksum,
            Some((format, _)) if format.starts_with("hearth-") => {
                return Err(bad(format!("is of format {format:?}, and this agent knows {ours:?}")));
            }
            _ => return Err(bad(format!("is no kept {}", M::NAME))),
        };
        if checksum != format!("{:016x}", xxh3_64(body)) {
            return Err(bad("is damaged: its checksum is another".to_owned()));
        }
        M::decode(body).map_err(|error| bad(format!("is no {}: {error}", M::NAME)))
    }

    /// Keeps this one instead.
    ///
    /// # Errors
    /// It cannot be written, or is larger than what would be read again; the one before stays.
    pub fn save(&self, message: &M) -> io::Result<()> {
        let body = message.encode_to_vec();
        if body.len() > MAX_UPDATE_BYTES {
            let problem = format!("it has {} bytes, more than {MAX_UPDATE_BYTES}", body.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, problem));
        }
        let mut bytes = format!("{} {:016x}\n", Self::format(), xxh3_64(&body)).into_bytes();
        bytes.extend(body);
        replace(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use hearth_proto::config::v1::Namespace;

    use super::*;

    fn store() -> (tempfile::TempDir, Store<Config>, Config) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let config = Config { nonce: 7, hash: "abc".into(), resume: "once".into(), ..Config::default() };
        (folder, Store::new(&state), config)
    }

    #[test]
    fn what_is_kept_comes_back_each_kind_from_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let (configs, directories) = (Store::<Config>::new(&state), Store::<Directory>::new(&state));
        assert_eq!((configs.load(), directories.load()), (None, None));
        let config = Config { hash: "abc".into(), ..Config::default() };
        let namespace = Namespace { name: "shop".into(), ..Namespace::default() };
        let directory = Directory { namespaces: vec![namespace], ..Directory::default() };
        configs.save(&config).unwrap();
        directories.save(&directory).unwrap();
        assert_eq!((configs.load(), directories.load()), (Some(config), Some(directory)));
    }

    #[test]
    fn what_would_not_be_read_again_is_not_written() {
        let (_folder, store, config) = store();
        store.save(&config).unwrap();
        let large = Config { resume: "x".repeat(MAX_UPDATE_BYTES), ..Config::default() };
        let refused = store.save(&large).unwrap_err().to_string();
        assert_eq!(refused, "it has 16777221 bytes, more than 16777216");
        assert_eq!(store.load(), Some(config), "the one before stays");
    }

    /// The file with this done to it; why it is left aside.
    fn check_refused(change: impl Fn(&mut Vec<u8>), expected: &str) {
        let (_folder, store, config) = store();
        store.save(&config).unwrap();
        let mut bytes = std::fs::read(&store.path).unwrap();
        change(&mut bytes);
        std::fs::write(&store.path, bytes).unwrap();
        assert_eq!(store.read().unwrap_err().to_string(), expected);
        assert_eq!(store.load(), None);
    }

    #[test]
    fn a_damaged_or_newer_file_is_left_aside() {
        let damaged = "is damaged: its checksum is another";
        check_refused(|bytes| *bytes.last_mut().unwrap() ^= 1, damaged);
        check_refused(|bytes| bytes.truncate(bytes.len() - 1), damaged);
        check_refused(|bytes| bytes.truncate(3), "is no kept config");
        check_refused(Vec::clear, "is no kept config");
        check_refused(
            |bytes| bytes[14] = b'2',
            "is of format \"hearth-config 2\", and this agent knows \"hearth-config 1\"",
        );
        check_refused(|bytes| bytes.resize(MAX_UPDATE_BYTES + 65, 0), "longer than 16777280 bytes");
    }
}
