//! How large the images are, of a release build.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

/// Megabytes that each may have at most.
const IMAGES: [(&str, u64); 2] = [("controller", 40), ("worker", 150)];

/// `folder` is where `images.sh` has put them. None of a debug build, whose size says nothing.
pub fn run(folder: &Path) -> Option<Value> {
    if cfg!(debug_assertions) {
        println!("\nthe images are of a debug build: their sizes say nothing");
        return None;
    }
    let title = "images of the release build, MB";
    println!("\n{title:<64} {:>8} {:>8}", "size", "at most");
    let mut sizes = BTreeMap::new();
    for (name, most) in IMAGES {
        let path = folder.join(format!("{name}-{}.tar", env!("CARGO_PKG_VERSION")));
        let file = std::fs::metadata(&path).unwrap_or_else(|error| panic!("{} is not there: {error}", path.display()));
        let megabytes = file.len() as f64 / 1e6;
        let too_large = if megabytes < most as f64 { "" } else { "  too large" };
        println!("  {name:<62} {megabytes:>8.1} {most:>8}{too_large}");
        sizes.insert(name, file.len());
    }
    Some(json!(sizes))
}
