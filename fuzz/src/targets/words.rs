//! Words that users type and that have a grammar: UUIDs, addresses of exports, faults to inject.

use umd_disk::fault::FaultSpec;
use umd_export::nbd::Address;
use umd_format::Uuid;

/// Runs it.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(uuid) = text.parse::<Uuid>() {
        assert_eq!(uuid.to_string().parse(), Ok(uuid));
    }
    if let Ok(address) = text.parse::<Address>() {
        let _ = (address.uri("array"), address.uri_over_tls("array"));
    }
    let _ = text.parse::<FaultSpec>();
}
