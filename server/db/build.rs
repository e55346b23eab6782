//! The schema is part of the binary: a changed migration means a new build.

fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
