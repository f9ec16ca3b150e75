//! Words that users type and that have a grammar: UUIDs, addresses of exports, faults to inject.
#![no_main]

use libfuzzer_sys::fuzz_target;
use umd_disk::fault::FaultSpec;
use umd_export::nbd::Address;
use umd_format::Uuid;

fuzz_target!(|text: &str| {
    if let Ok(uuid) = text.parse::<Uuid>() {
        assert_eq!(uuid.to_string().parse(), Ok(uuid));
    }
    if let Ok(address) = text.parse::<Address>() {
        let _ = address.uri("array");
    }
    let _ = text.parse::<FaultSpec>();
});
