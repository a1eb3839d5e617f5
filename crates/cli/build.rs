//! How the program is linked (decision 0013): at a fixed address, and with the unwinder in it rather than beside it.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-no-pie");
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") {
        take_unwinder_in()?;
    }
    Ok(())
}

/// Puts into the first directory that the linker looks into what it takes for the shared `libgcc_s`: a script that names the archives
/// with the same content (ld(1), "Implicit Linker Scripts").
fn take_unwinder_in() -> io::Result<()> {
    let directory = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    let directory = Path::new(&directory);
    fs::write(directory.join("libgcc_s.so"), "GROUP(-l:libgcc_eh.a -l:libgcc.a)\n")?;
    println!("cargo::rustc-link-arg-bins=-L{}", directory.display());
    Ok(())
}
