//! Where things are.

use std::path::PathBuf;

/// The folder with the workspace's Cargo.toml.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("xtask lies one level below the workspace")
        .to_path_buf()
}

/// Cargo's target folder, as an absolute path.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(dir).expect("CARGO_TARGET_DIR is not empty"),
        None => root().join("target"),
    }
}

/// The folder of the oracles: `UMD_ORACLE_DIR`, else `oracle` in the target folder. `umd-interop`
/// looks in the same place; `cargo xtask` hands it down in the environment so that the two cannot
/// disagree.
pub fn oracle() -> PathBuf {
    match std::env::var_os("UMD_ORACLE_DIR") {
        Some(dir) => std::path::absolute(dir).expect("UMD_ORACLE_DIR is not empty"),
        None => target().join("oracle"),
    }
}

/// The folder of the browser: `UMD_BROWSER_DIR`, else beside the folder of the oracles.
pub fn browser_oracle() -> PathBuf {
    match std::env::var_os("UMD_BROWSER_DIR") {
        Some(dir) => std::path::absolute(dir).expect("UMD_BROWSER_DIR is not empty"),
        None => {
            let mut dir = oracle().into_os_string();
            dir.push("-browser");
            dir.into()
        }
    }
}

/// The folder of the newer oracle: `UMD_NEWER_ORACLE_DIR`, else beside the folder of the oracles.
pub fn newer_oracle() -> PathBuf {
    match std::env::var_os("UMD_NEWER_ORACLE_DIR") {
        Some(dir) => std::path::absolute(dir).expect("UMD_NEWER_ORACLE_DIR is not empty"),
        None => {
            let mut dir = oracle().into_os_string();
            dir.push("-newer");
            dir.into()
        }
    }
}
