//! How etcd lets this host in: files that an administrator has written, read when the array starts.
//!
//! ```text
//!   --cluster-tls=DIR       ca-cert.pem                        who vouches for the servers
//!                           client-cert.pem, client-key.pem    what we show them, if they ask
//!   --cluster-login=FILE    USER:PASSWORD                      for nobody else to read
//! ```
//!
//! The request has their paths: what the daemon notes down for its next life is no secret.

use std::path::Path;

use umd_cluster::etcd::Servers;

use crate::api::{ClusterRequest, ErrorDoc};
use crate::cli::outcome::Failure;
use crate::daemon::secrets;
use crate::daemon::tls::ClientFiles;

fn told(failure: Failure) -> ErrorDoc {
    ErrorDoc {
        exit_code: failure.code,
        ..ErrorDoc::new(failure.text)
    }
}

/// The servers of a request, and what they are shown.
///
/// # Errors
/// When a file is missing, can be read by others, or holds something else.
pub fn servers(request: &ClusterRequest) -> Result<Servers, ErrorDoc> {
    let mut servers = Servers {
        urls: request.servers.clone(),
        ..Servers::default()
    };
    if let Some(dir) = &request.tls_dir {
        let files = ClientFiles::read(Path::new(dir)).map_err(told)?;
        servers.ca_pem = files.authority;
        servers.client_pem = files.own;
    }
    if let Some(file) = &request.login_file {
        servers.user = Some(login(Path::new(file)).map_err(told)?);
    }
    Ok(servers)
}

fn login(path: &Path) -> Result<(String, String), Failure> {
    let text = secrets::secret(path, "change what etcd knows of the cluster")?;
    let pair = text.split_once(':').filter(|(user, password)| {
        let one_line = !text.contains(char::is_control);
        one_line && !user.is_empty() && !password.is_empty()
    });
    let (user, password) = pair.ok_or_else(|| {
        let path = path.display();
        Failure::failed(format!("{path} is not one line USER:PASSWORD"))
    })?;
    Ok((user.into(), password.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_login_is_one_line_that_nobody_else_can_read() {
        let good = file("root:pass:word\n", 0o600);
        let pair = login(good.path()).unwrap();
        assert_eq!(pair, ("root".into(), "pass:word".into()));
        for (text, mode, why) in [
            ("root:secret\n", 0o644, "can be read by others"),
            ("root\n", 0o600, "is not one line USER:PASSWORD"),
            (":secret\n", 0o600, "is not one line"),
            ("root:\n", 0o600, "is not one line"),
            ("root:secret\nmore\n", 0o600, "is not one line"),
        ] {
            let bad = login(file(text, mode).path()).unwrap_err();
            assert!(bad.text.contains(why), "{}", bad.text);
            assert!(!bad.text.contains("secret"), "{}", bad.text);
        }
        let none = login(Path::new("/nowhere/login")).unwrap_err();
        assert!(none.text.contains("cannot be read"), "{}", none.text);
    }

    #[test]
    fn a_directory_without_an_authority_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let request = ClusterRequest {
            tls_dir: Some(dir.path().to_str().unwrap().into()),
            ..ClusterRequest::default()
        };
        let Err(refused) = servers(&request) else {
            panic!("there is nobody who vouches for the servers");
        };
        let said = refused.error;
        assert!(
            said.contains("want ca-cert.pem in their directory"),
            "{said}"
        );
    }
}
