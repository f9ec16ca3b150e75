//! What umd is built of by default has no etcd in it.

use std::path::Path;
use std::process::Command;

/// The crates that umd-cluster is built of.
fn crates(features: &[&str]) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .args([
            "tree",
            "--offline",
            "--prefix",
            "none",
            "--edges",
            "normal,build",
        ])
        .args(["--format", "{lib}", "--package", "umd-cluster"])
        .args(features)
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(Into::into).collect()
}

#[test]
fn without_its_feature_there_is_no_etcd_client() {
    let clients = [
        "ureq",
        "base64",
        "tonic",
        "prost",
        "prost_build",
        "etcd_client",
        "tokio",
    ];
    let default = crates(&[]);
    assert!(default.contains(&"umd_core".into()), "{default:?}");
    for client in clients {
        assert!(
            !default.contains(&client.into()),
            "{client} is in the default build"
        );
    }
    // With it there is a small client, and neither a runtime nor a protocol compiler.
    let with = crates(&["--features", "etcd"]);
    assert!(with.contains(&"ureq".into()), "{with:?}");
    for absent in &clients[2..] {
        assert!(
            !with.contains(&(*absent).into()),
            "{absent} is in the build with etcd"
        );
    }
}
