//! Certificates for tests, signed by an authority of their own.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// Somebody who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// Its clients get no common name: etcd with users lets nobody else in.
    pub nameless: bool,
    /// Further addresses of its servers.
    pub addresses: Vec<String>,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Authority {
            issuer,
            pem,
            nameless: false,
            addresses: Vec::new(),
        }
    }

    /// `ROLE-cert.pem` and `ROLE-key.pem` in a directory, and who signed them.
    pub fn furnish(&self, dir: &Path, role: &str) {
        fs::create_dir_all(dir).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        names.extend(self.addresses.iter().cloned());
        let mut params = CertificateParams::new(names).unwrap();
        if role != "server" && self.nameless {
            params.distinguished_name = DistinguishedName::new();
        }
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        let (serves, asks) = (
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        params.extended_key_usages = match role {
            "server" => vec![serves],
            // A member of an etcd is a client of its own.
            "etcd" => vec![serves, asks],
            _ => vec![asks],
        };
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join("ca-cert.pem"), &self.pem).unwrap();
        fs::write(dir.join(format!("{role}-cert.pem")), signed.pem()).unwrap();
        fs::write(dir.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
    }
}
