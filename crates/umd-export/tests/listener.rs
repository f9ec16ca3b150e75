//! Sockets in the file system: what is replaced, what is left alone, what is cleaned up.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use umd_export::nbd::{Address, ListenError, listen};

fn unix(path: &Path) -> Address {
    Address::Unix(path.to_owned())
}

#[test]
fn a_socket_is_made_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let listener = listen(&unix(&path)).unwrap();
    assert_eq!(listener.address(), &unix(&path));
    UnixStream::connect(&path).unwrap();
    listener.accept().unwrap();
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _listener = listen(&unix(&path)).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_live_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let first = listen(&unix(&path)).unwrap();
    let error = listen(&unix(&path)).unwrap_err();
    assert!(matches!(error, ListenError::AddressInUse(_)));
    assert_eq!(
        error.to_string(),
        format!("unix:{} is in use by another process", path.display())
    );
    UnixStream::connect(&path).unwrap();
    drop(first);
    listen(&unix(&path)).unwrap();
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.img");
    fs::write(&file, b"precious").unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
    for path in [&file, &link, &directory.path().to_owned()] {
        let error = listen(&unix(path)).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert!(link.is_symlink());
}

#[test]
fn what_others_put_there_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let first = listen(&unix(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let second = listen(&unix(&path)).unwrap();
    drop(first);
    UnixStream::connect(&path).unwrap();
    drop(second);
    assert!(!path.exists());
}

#[test]
fn many_at_once_make_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    for _ in 0..20 {
        drop(UnixListener::bind(&path).unwrap());
        let results: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| listen(&unix(&path))))
                .collect();
            starts
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn errors_are_one_sentence() {
    let long = unix(Path::new(&format!("/tmp/{}", "x".repeat(120))));
    let missing = unix(Path::new("/nonexistent/nbd.sock"));
    for (address, words) in [
        (long, "too long"),
        (missing, "cannot listen on unix:/nonexistent"),
    ] {
        let text = listen(&address).unwrap_err().to_string();
        assert!(text.contains(words) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn tcp_ports_are_told() {
    let first = listen(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let Address::Tcp { host, port } = first.address().clone() else {
        panic!("a TCP address");
    };
    assert!(host == "127.0.0.1" && port != 0);
    let again = listen(first.address()).unwrap_err();
    assert!(matches!(again, ListenError::AddressInUse(_)), "{again}");
}
