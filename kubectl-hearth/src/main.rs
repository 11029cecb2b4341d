//! `kubectl hearth`.

fn main() {}
