//! Writes the CRDs into folders, a file each: `hearth-crds FOLDER...`.

use std::path::PathBuf;

use hearth_policy::crd::{crds, file};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if folders.is_empty() {
        return Err("usage: hearth-crds FOLDER...".into());
    }
    for crd in crds() {
        let (name, text) = file(&crd)?;
        for folder in &folders {
            let path = folder.join(&name);
            std::fs::write(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}
