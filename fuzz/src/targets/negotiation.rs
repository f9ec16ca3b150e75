//! The NBD handshake: how its bytes are cut into pieces makes no difference.

use crate::Input;
use umd_export::nbd::{ExportInfo, Exports, Negotiation, Progress};

struct Shelf;

impl Shelf {
    fn export(name: &str) -> ExportInfo {
        ExportInfo {
            name: name.to_owned(),
            description: "an array".to_owned(),
            size_sectors: 2049,
            logical_block_bytes: 512,
            preferred_bytes: 65_536,
            read_only: name == "r6",
        }
    }
}

impl Exports for Shelf {
    fn list(&self) -> Vec<ExportInfo> {
        vec![Shelf::export("r5"), Shelf::export("r6")]
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        matches!(name, "r5" | "r6").then(|| Shelf::export(name))
    }
}

/// What a negotiation came to: its output, and what was agreed.
fn negotiate<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<String>) {
    let mut negotiation = Negotiation::default();
    let mut output = Vec::new();
    negotiation
        .write_to(&mut output)
        .expect("memory takes everything");
    let mut agreed: Option<(String, Vec<u8>)> = None;
    let mut closed = false;
    for piece in pieces {
        if let Some((_, rest)) = &mut agreed {
            // What follows belongs to the next phase.
            rest.extend_from_slice(piece);
            continue;
        }
        if closed {
            continue;
        }
        let progress = negotiation.receive(piece, &Shelf);
        negotiation
            .write_to(&mut output)
            .expect("memory takes everything");
        match progress {
            Progress::Continue => assert!(negotiation.wants_read()),
            Progress::Ready(mut transmission) => {
                output.append(&mut transmission.output);
                let rest = std::mem::take(&mut transmission.input);
                agreed = Some((format!("{transmission:?}"), rest));
            }
            // Where none is offered it cannot be started.
            Progress::StartTls => panic!("TLS out of nowhere"),
            Progress::Closed => closed = true,
        }
    }
    (
        output,
        agreed.map(|(terms, rest)| format!("{terms} {rest:?}")),
    )
}

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let step = usize::from(input.byte()) + 1;
    let whole = negotiate(std::iter::once(input.0));
    assert_eq!(negotiate(input.0.chunks(step)), whole);
}
