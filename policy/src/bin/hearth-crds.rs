//! Writes the CRDs into a folder, a file each: `hearth-crds FOLDER`.

use std::path::PathBuf;

use hearth_policy::crd::{crds, file};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder: PathBuf = std::env::args_os().nth(1).ok_or("usage: hearth-crds FOLDER")?.into();
    for crd in crds() {
        let (name, text) = file(&crd)?;
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
