//! The last configuration that was good, on disk: a node starts from it while the operator is away.
//!
//! A line of text, `hearth-config 1 CHECKSUM`, then the configuration as it came over the wire.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use hearth_proto::config::v1::Config;
use hearth_proto::config_limits::MAX_UPDATE_BYTES;
use prost::Message as _;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use crate::state_dir::{StateDir, read, replace};

/// Grows with every change that an older agent would misread.
const FORMAT: &str = "hearth-config 1";

/// Where the configuration is kept.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// In this folder.
    pub fn new(state: &StateDir) -> Self {
        Self { path: state.file("config") }
    }

    /// What was kept last; `None` if that is nothing, or nothing that this agent can read, which is logged.
    pub fn load(&self) -> Option<Config> {
        match self.read() {
            Ok(config) => Some(config),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                warn!("{}: {error}; it is left aside until the operator sends another", self.path.display());
                None
            }
        }
    }

    fn read(&self) -> io::Result<Config> {
        let bad = |problem: String| io::Error::new(ErrorKind::InvalidData, problem);
        let bytes = read(&self.path, (MAX_UPDATE_BYTES + 64) as u64)?;
        let line_end = bytes.iter().take(64).position(|byte| *byte == b'\n');
        let (head, body) = bytes.split_at(line_end.unwrap_or(0));
        let body = body.get(1..).unwrap_or_default();
        let head = std::str::from_utf8(head).unwrap_or_default();
        let checksum = match head.rsplit_once(' ') {
            Some((FORMAT, checksum)) => checksum,
            Some((format, _)) if format.starts_with("hearth-config ") => {
                return Err(bad(format!("is of format {format:?}, and this agent knows {FORMAT:?}")));
            }
            _ => return Err(bad("is no kept configuration".to_owned())),
        };
        if checksum != format!("{:016x}", xxh3_64(body)) {
            return Err(bad("is damaged: its checksum is another".to_owned()));
        }
        Config::decode(body).map_err(|error| bad(format!("is no configuration: {error}")))
    }

    /// Keeps this one instead.
    ///
    /// # Errors
    /// It cannot be written; the one before stays.
    pub fn save(&self, config: &Config) -> io::Result<()> {
        let body = config.encode_to_vec();
        let mut bytes = format!("{FORMAT} {:016x}\n", xxh3_64(&body)).into_bytes();
        bytes.extend(body);
        replace(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn store() -> (tempfile::TempDir, Store, Config) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let config = Config { nonce: 7, hash: "abc".into(), resume: "once".into(), ..Config::default() };
        (folder, Store::new(&state), config)
    }

    #[test]
    fn what_is_kept_comes_back() {
        let (_folder, store, config) = store();
        assert_eq!(store.load(), None);
        store.save(&config).unwrap();
        assert_eq!(store.load(), Some(config));
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
        check_refused(|bytes| bytes.truncate(3), "is no kept configuration");
        check_refused(Vec::clear, "is no kept configuration");
        check_refused(
            |bytes| bytes[14] = b'2',
            "is of format \"hearth-config 2\", and this agent knows \"hearth-config 1\"",
        );
        check_refused(|bytes| bytes.resize(MAX_UPDATE_BYTES + 65, 0), "longer than 16777280 bytes");
    }
}
