//! TLS as others speak it: qemu and libnbd (both with GnuTLS) against umd's door.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

#[path = "support/authority.rs"]
mod authority;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::ports::free_address;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};

use authority::Authority;

const MIB: u64 = 1 << 20;

fn raid5(umd: &Umd, scratch: &Scratch) -> Vec<PathBuf> {
    let members = scratch.images("m", 3, 32 * MIB).unwrap();
    let mut args = vec!["create", "r5", "-l5", "-n3", "-c64", "--assume-clean"];
    args.extend(members.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    umd.ok(&["stop", "r5"]).unwrap();
    members
}

/// qemu-io at a TCP door, with the credentials in a directory, or none.
fn qemu_io(oracle: &Oracle, port: u16, credentials: Option<&Path>, commands: &[&str]) -> Output {
    let mut args = Vec::new();
    let object = credentials.map(|dir| {
        format!(
            "tls-creds-x509,id=t,endpoint=client,verify-peer=on,dir={}",
            text(dir)
        )
    });
    let mut image =
        format!("driver=nbd,export=r5,server.type=inet,server.host=127.0.0.1,server.port={port}");
    if let Some(object) = &object {
        args.extend(["--object", object]);
        image.push_str(",tls-creds=t");
    }
    args.extend(["--image-opts", &image]);
    for command in commands {
        args.extend(["-c", command]);
    }
    oracle.output("qemu-io", &args).unwrap()
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

#[test]
fn qemu_and_libnbd_come_in_with_their_certificate_only() {
    let test = "NBD over TLS";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(test), Umd::or_skip(test)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let members = raid5(&umd, &scratch);
    let (ours, other) = (Authority::new(), Authority::new());
    let (server, client, stranger) = (
        scratch.path("server"),
        scratch.path("client"),
        scratch.path("stranger"),
    );
    ours.furnish(&server, "server");
    ours.furnish(&client, "client");
    other.furnish(&stranger, "client");
    // It believes our server, and shows what our server does not know.
    fs::copy(client.join("ca-cert.pem"), stranger.join("ca-cert.pem")).unwrap();
    let port = free_address().port();
    let address = format!("tcp:127.0.0.1:{port}");
    let options = ["--nbd", address.as_str(), "--tls", text(&server)];
    let served = umd.serve("r5", &members, &options).unwrap();
    // Its doors are open before it says so.
    let (door, began) = (format!("nbds://127.0.0.1:{port}/r5"), Instant::now());
    while !served.messages().contains(&door) {
        let said = served.messages();
        assert!(began.elapsed() < Duration::from_secs(10), "{said}");
        std::thread::sleep(Duration::from_millis(5));
    }

    let commands = [
        "write -P 0x11 0 16M",
        "aio_write -P 0x22 16M 8M",
        "aio_write -P 0x33 24M 8M",
        "aio_flush",
        "flush",
        "read -P 0x11 0 16M",
        "read -P 0x22 16M 8M",
        "read -P 0x33 24M 8M",
        "write -z 1M 1M",
        "read -P 0 1M 1M",
    ];
    let output = qemu_io(&oracle, port, Some(&client), &commands);
    let text_of = said(&output);
    assert!(
        output.status.success() && !text_of.contains("failed"),
        "{}: {text_of}\nthe server: {}",
        output.status,
        served.messages()
    );

    let output = qemu_io(&oracle, port, None, &["read 0 512"]);
    assert!(!output.status.success(), "without TLS: {}", said(&output));
    let output = qemu_io(&oracle, port, Some(&stranger), &["read 0 512"]);
    assert!(!output.status.success(), "a stranger: {}", said(&output));
    let without = scratch.path("without");
    fs::create_dir(&without).unwrap();
    fs::copy(client.join("ca-cert.pem"), without.join("ca-cert.pem")).unwrap();
    let output = qemu_io(&oracle, port, Some(&without), &["read 0 512"]);
    assert!(
        !output.status.success(),
        "without a certificate: {}",
        said(&output)
    );

    // Whole images by libnbd, several connections at a time.
    let uri = format!(
        "nbds://127.0.0.1:{port}/r5?tls-certificates={}",
        text(&client)
    );
    let size = oracle.text("nbdinfo", &["--size", &uri]).unwrap();
    let bytes: u64 = size.trim().parse().unwrap();
    let (content, out) = (scratch.path("content"), scratch.path("out"));
    pattern::write_file(&content, 5, bytes).unwrap();
    oracle
        .text("nbdcopy", &["--flush", text(&content), &uri])
        .unwrap();
    oracle.text("nbdcopy", &[&uri, text(&out)]).unwrap();
    pattern::compare((&content, 0), (&out, 0), bytes).unwrap();
    let info = oracle.text("nbdinfo", &[&uri]).unwrap();
    assert!(info.contains("newstyle-fixed with TLS"), "{info}");
    served.stop().unwrap();
}
