//! How the program is linked: at a fixed address. 0014 of the decisions says why.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-no-pie");
}
