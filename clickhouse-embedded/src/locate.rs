//! Finds `libchdb.so`.

use std::path::{Path, PathBuf};

/// The pinned version of libchdb, first line of `chdb.version`.
pub const CHDB_VERSION: &str = first_line(include_str!("../chdb.version"));

const _: () = assert!(!CHDB_VERSION.is_empty());

/// No `libchdb.so` was found.
#[derive(Debug, thiserror::Error)]
#[error(
    "libchdb.so {CHDB_VERSION} not found (looked at {}); run scripts/setup-chdb.sh, or name it with --libchdb",
    .looked_at.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
)]
pub struct NotFound {
    /// Where it was looked for, in order.
    pub looked_at: Vec<PathBuf>,
}

/// The library to load: the named one, else beside our executable, else in
/// `../lib/hearth`, else in the cache that `scripts/setup-chdb.sh` fills.
pub fn libchdb(named: Option<&Path>) -> Result<PathBuf, NotFound> {
    let candidates = match named {
        Some(path) => vec![path.to_path_buf()],
        None => default_candidates(),
    };
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(NotFound { looked_at: candidates }),
    }
}

fn default_candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Some(dir) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        candidates.push(dir.join("libchdb.so"));
        candidates.push(dir.join("../lib/hearth/libchdb.so"));
    }
    let cache = std::env::var_os("HEARTH_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/hearth")));
    if let Some(cache) = cache {
        candidates.push(cache.join("chdb").join(CHDB_VERSION).join("libchdb.so"));
    }
    candidates
}

const fn first_line(text: &str) -> &str {
    let bytes = text.as_bytes();
    let mut end = 0;
    while end < bytes.len() && bytes[end] != b'\n' {
        end += 1;
    }
    text.split_at(end).0
}
