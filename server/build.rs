//! Cargo does not see by itself that a new migration must be built in.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
