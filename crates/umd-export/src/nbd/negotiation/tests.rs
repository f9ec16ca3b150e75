//! The handshake, byte for byte.

use proptest::prelude::*;

use super::*;

struct Shelf(Vec<ExportInfo>);

impl Exports for Shelf {
    fn list(&self) -> Vec<ExportInfo> {
        self.0.clone()
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.0.iter().find(|export| export.name == name).cloned()
    }
}

fn export(name: &str) -> ExportInfo {
    ExportInfo {
        name: name.into(),
        description: format!("the array {name}"),
        size_sectors: 2048,
        logical_block_bytes: 512,
        preferred_bytes: 65536,
        read_only: false,
    }
}

fn two() -> Shelf {
    Shelf(vec![export("r5"), export("r6")])
}

fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((wanted.len() as u16).to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

/// A negotiation past the flags, its greeting checked and taken.
fn begun(client_flags: u32, exports: &dyn Exports) -> Negotiation {
    let mut negotiation = Negotiation::default();
    assert_eq!(negotiation.output, b"NBDMAGICIHAVEOPT\0\x03");
    negotiation.output.clear();
    let progress = negotiation.receive(&client_flags.to_be_bytes(), exports);
    assert!(matches!(progress, Progress::Continue));
    negotiation
}

/// Type and payload of every reply, all to `code`.
fn replies(output: &[u8], code: u32) -> Vec<(u32, Vec<u8>)> {
    let mut fields = Fields(output);
    let mut replies = Vec::new();
    while !fields.is_empty() {
        assert_eq!(fields.u64(), Some(OPTION_REPLY_MAGIC));
        assert_eq!(fields.u32(), Some(code));
        let kind = fields.u32().unwrap();
        let len = fields.u32().unwrap() as usize;
        replies.push((kind, fields.bytes(len).unwrap().to_vec()));
    }
    replies
}

fn ask(negotiation: &mut Negotiation, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let progress = negotiation.receive(&option(code, data), &two());
    assert!(matches!(progress, Progress::Continue), "{progress:?}");
    replies(&std::mem::take(&mut negotiation.output), code)
}

fn kinds(replies: &[(u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|(kind, _)| *kind).collect()
}

fn ready(progress: Progress) -> Transmission {
    match progress {
        Progress::Ready(transmission) => *transmission,
        other => panic!("{other:?}"),
    }
}

#[test]
fn go_tells_what_was_asked_for() {
    let mut negotiation = begun(3, &two());
    let wanted = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 99];
    let answers = ask(&mut negotiation, opt::INFO, &go("r5", &wanted));
    let (last, infos) = answers.split_last().unwrap();
    assert_eq!(*last, (rep::ACK, vec![]));
    assert!(infos.iter().all(|(kind, _)| *kind == rep::INFO));
    let mut expected = vec![vec![0, 0]];
    expected[0].extend((1u64 << 20).to_be_bytes());
    expected[0].extend(0b1_0110_1101u16.to_be_bytes());
    expected.push(b"\0\x01r5".to_vec());
    expected.push(b"\0\x02the array r5".to_vec());
    expected.push(b"\0\x03\0\0\x02\0\0\x01\0\0\x02\0\0\0".to_vec());
    let infos: Vec<_> = infos.iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(infos, expected);

    let mut bytes = option(opt::GO, &go("r5", &[]));
    bytes.extend(b"already a request");
    let agreed = ready(negotiation.receive(&bytes, &two()));
    assert_eq!(agreed.input, b"already a request");
    assert_eq!(agreed.export, export("r5"));
    assert!(!agreed.structured && agreed.allocation_context.is_none());
    assert_eq!(
        kinds(&replies(&agreed.output, opt::GO)),
        [rep::INFO, rep::ACK]
    );
    let after = negotiation.receive(&option(opt::LIST, &[]), &two());
    assert!(matches!(after, Progress::Closed));
}

#[test]
fn export_name_has_its_zeroes() {
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        let mut negotiation = begun(flags, &two());
        let agreed = ready(negotiation.receive(&option(opt::EXPORT_NAME, b"r6"), &two()));
        assert_eq!(agreed.export.name, "r6");
        assert_eq!(agreed.output.len(), 10 + zeroes);
        assert_eq!(agreed.output[..8], (1u64 << 20).to_be_bytes());
    }
}

#[test]
fn a_name_may_carry_a_key_in_both_ways_of_opening() {
    for (name, key) in [("r6", None), ("r6@key=2a", Some(0x2a))] {
        let mut negotiation = begun(3, &two());
        let old = option(opt::EXPORT_NAME, name.as_bytes());
        let agreed = ready(negotiation.receive(&old, &two()));
        assert_eq!((agreed.export.name.as_str(), agreed.key), ("r6", key));
        let mut negotiation = begun(3, &two());
        // Asking about it, with or without a key, leaves none behind.
        let answers = ask(&mut negotiation, opt::INFO, &go("r5@key=1", &[]));
        assert_eq!(kinds(&answers), [rep::INFO, rep::ACK]);
        let agreed = ready(negotiation.receive(&option(opt::GO, &go(name, &[])), &two()));
        assert_eq!((agreed.export.name.as_str(), agreed.key), ("r6", key));
    }
}

#[test]
fn unknown_names() {
    let mut negotiation = begun(3, &two());
    for code in [opt::INFO, opt::GO] {
        let answers = ask(&mut negotiation, code, &go("r7", &[]));
        assert_eq!(kinds(&answers), [rep::ERR_UNKNOWN]);
    }
    let answers = ask(&mut negotiation, opt::GO, &go("", &[]));
    assert_eq!(
        kinds(&answers),
        [rep::ERR_UNKNOWN],
        "two exports, so there is no default"
    );
    let old = negotiation.receive(&option(opt::EXPORT_NAME, b"r7"), &two());
    assert!(matches!(old, Progress::Closed));
}

#[test]
fn the_only_export_is_the_default() {
    let one = Shelf(vec![export("r5")]);
    let mut negotiation = begun(3, &one);
    let agreed = ready(negotiation.receive(&option(opt::GO, &go("", &[])), &one));
    assert_eq!(agreed.export.name, "r5");
    let answers = replies(&agreed.output, opt::GO);
    assert_eq!(
        answers[1],
        (rep::INFO, b"\0\x01r5".to_vec()),
        "the canonical name"
    );
}

#[test]
fn the_list_has_names_and_descriptions() {
    let mut negotiation = begun(3, &two());
    let answers = ask(&mut negotiation, opt::LIST, &[]);
    assert_eq!(
        answers,
        [
            (rep::SERVER, b"\0\0\0\x02r5the array r5".to_vec()),
            (rep::SERVER, b"\0\0\0\x02r6the array r6".to_vec()),
            (rep::ACK, vec![]),
        ]
    );
    assert_eq!(
        kinds(&ask(&mut negotiation, opt::LIST, b"x")),
        [rep::ERR_INVALID]
    );
}

#[test]
fn options_that_are_not_offered() {
    let mut negotiation = begun(3, &two());
    assert_eq!(
        kinds(&ask(&mut negotiation, opt::STARTTLS, &[])),
        [rep::ERR_UNSUP]
    );
    assert_eq!(
        kinds(&ask(&mut negotiation, opt::STARTTLS, b"x")),
        [rep::ERR_INVALID]
    );
    assert_eq!(kinds(&ask(&mut negotiation, 11, &[])), [rep::ERR_UNSUP]);
    assert_eq!(
        kinds(&ask(&mut negotiation, 0xdead, &[7; 5000])),
        [rep::ERR_UNSUP]
    );
}

#[test]
fn abort_is_acknowledged() {
    let mut negotiation = begun(3, &two());
    let progress = negotiation.receive(&option(opt::ABORT, b"whatever"), &two());
    assert!(matches!(progress, Progress::Closed));
    assert_eq!(kinds(&replies(&negotiation.output, opt::ABORT)), [rep::ACK]);
    assert!(negotiation.wants_write() && !negotiation.wants_read());
}

#[test]
fn contexts_are_listed_and_set() {
    let mut negotiation = begun(3, &two());
    let name = b"\0\0\0\0base:allocation".to_vec();
    for queries in [&[][..], &["base:"], &["x-y:z", "base:allocation"]] {
        let data = contexts("r5", queries);
        let answers = ask(&mut negotiation, opt::LIST_META_CONTEXT, &data);
        assert_eq!(
            answers,
            [(rep::META_CONTEXT, name.clone()), (rep::ACK, vec![])]
        );
    }
    let data = contexts("r5", &["qemu:dirty-bitmap:x", "base:other"]);
    let answers = ask(&mut negotiation, opt::LIST_META_CONTEXT, &data);
    assert_eq!(kinds(&answers), [rep::ACK]);

    let all = contexts("r5", &["base:allocation"]);
    let early = ask(&mut negotiation, opt::SET_META_CONTEXT, &all);
    assert_eq!(
        kinds(&early),
        [rep::ERR_INVALID],
        "structured replies come first"
    );
    assert_eq!(
        kinds(&ask(&mut negotiation, opt::STRUCTURED_REPLY, b"x")),
        [rep::ERR_INVALID]
    );
    assert_eq!(
        kinds(&ask(&mut negotiation, opt::STRUCTURED_REPLY, &[])),
        [rep::ACK]
    );
    for queries in [&[][..], &["base:"], &["base:Allocation"]] {
        let data = contexts("r5", queries);
        assert_eq!(
            kinds(&ask(&mut negotiation, opt::SET_META_CONTEXT, &data)),
            [rep::ACK]
        );
    }
    let answers = ask(&mut negotiation, opt::SET_META_CONTEXT, &all);
    assert_eq!(
        answers[0],
        (rep::META_CONTEXT, b"\0\0\0\x01base:allocation".to_vec())
    );
    let unknown = contexts("r7", &[]);
    let answers = ask(&mut negotiation, opt::LIST_META_CONTEXT, &unknown);
    assert_eq!(kinds(&answers), [rep::ERR_UNKNOWN]);
    let agreed = ready(negotiation.receive(&option(opt::GO, &go("r5", &[])), &two()));
    assert!(agreed.structured);
    assert_eq!(agreed.allocation_context, Some(ALLOCATION_ID));
}

#[test]
fn a_context_belongs_to_its_export_and_to_the_last_selection() {
    let selected = contexts("r5", &["base:allocation"]);
    let then: [(&[u8], &str); 4] = [
        (&[], "r6"),
        (&contexts("r5", &[]), "r5"),
        (&contexts("r7", &["base:allocation"]), "r5"),
        (b"malformed", "r5"),
    ];
    for (second, name) in then {
        let mut negotiation = begun(3, &two());
        ask(&mut negotiation, opt::STRUCTURED_REPLY, &[]);
        ask(&mut negotiation, opt::SET_META_CONTEXT, &selected);
        if !second.is_empty() {
            ask(&mut negotiation, opt::SET_META_CONTEXT, second);
        }
        let agreed = ready(negotiation.receive(&option(opt::GO, &go(name, &[])), &two()));
        assert_eq!(agreed.allocation_context, None, "{second:?} {name}");
    }
}

#[test]
fn malformed_options_are_refused() {
    let mut negotiation = begun(3, &two());
    let mut cases = vec![
        vec![],
        vec![0, 0, 0],
        b"\0\0\0\x09r5\0\0".to_vec(),
        b"\0\0\0\x02\xff\xff\0\0".to_vec(),
        b"\0\0\0\x02r5\0\x01".to_vec(),
        b"\0\0\0\x02r5\0\0extra".to_vec(),
        b"\xff\xff\xff\xffr5\0\0".to_vec(),
        go(&"x".repeat(4097), &[]),
    ];
    for data in &cases {
        for code in [opt::INFO, opt::GO] {
            assert_eq!(
                kinds(&ask(&mut negotiation, code, data)),
                [rep::ERR_INVALID]
            );
        }
    }
    cases.push(b"\0\0\0\x02r5\xff\xff\xff\xff".to_vec());
    cases.push(b"\0\0\0\x02r5\0\0\0\x01\0\0\0\x09base".to_vec());
    for data in &cases {
        let answers = ask(&mut negotiation, opt::LIST_META_CONTEXT, data);
        assert_eq!(kinds(&answers), [rep::ERR_INVALID], "{data:?}");
    }
}

#[test]
fn oversized_options_end_the_session() {
    for len in [OPTION_BYTES_MAX as u32 + 1, u32::MAX] {
        let mut negotiation = begun(3, &two());
        let mut bytes = option(opt::GO, &[]);
        bytes[12..16].copy_from_slice(&len.to_be_bytes());
        assert!(matches!(
            negotiation.receive(&bytes, &two()),
            Progress::Closed
        ));
        let answers = replies(&negotiation.output, opt::GO);
        assert_eq!(kinds(&answers), [rep::ERR_TOO_BIG]);
    }
    let mut negotiation = begun(3, &two());
    let long = option(opt::EXPORT_NAME, &[b'x'; 4097]);
    assert!(matches!(
        negotiation.receive(&long, &two()),
        Progress::Closed
    ));
}

#[test]
fn nonsense_ends_the_session() {
    let mut negotiation = Negotiation::default();
    assert!(matches!(
        negotiation.receive(&[0, 0, 0, 4], &two()),
        Progress::Closed
    ));
    let mut negotiation = begun(3, &two());
    assert!(matches!(
        negotiation.receive(b"IHAVEOPX", &two()),
        Progress::Closed
    ));
    let mut negotiation = begun(3, &two());
    assert!(
        matches!(negotiation.receive(b"G", &two()), Progress::Closed),
        "not waited for"
    );
}

#[test]
fn nobody_haggles_for_ever() {
    let mut negotiation = begun(3, &two());
    for _ in 0..OPTIONS_MAX {
        ask(&mut negotiation, opt::LIST, &[]);
    }
    let progress = negotiation.receive(&option(opt::LIST, &[]), &two());
    assert!(matches!(progress, Progress::Closed));
}

/// What is long costs more.
#[test]
fn nobody_is_told_a_table_for_ever() {
    let mut negotiation = begun(3, &two());
    ask(&mut negotiation, opt::STRUCTURED_REPLY, &[]);
    let told = option(
        opt::LIST_META_CONTEXT,
        &contexts("r5", &[demand::NAMESPACE]),
    );
    let mut times = 0;
    while !matches!(negotiation.receive(&told, &two()), Progress::Closed) {
        times += 1;
        assert!(times < 100, "for ever");
    }
    assert_eq!(times, (OPTIONS_MAX / TABLE_OPTIONS) as usize);
}

#[test]
fn long_texts_are_clipped_between_characters() {
    let text = "\u{20ac}".repeat(2000);
    assert_eq!(clipped(&text).len(), 4095);
    assert_eq!(clipped("short"), "short");
}

fn session() -> impl Strategy<Value = Vec<u8>> {
    let name = || prop::sample::select(vec!["r5", "r6", "r7", ""]);
    let one = prop_oneof![
        Just(option(opt::LIST, &[])),
        Just(option(opt::STRUCTURED_REPLY, &[])),
        Just(option(opt::STARTTLS, &[])),
        Just(option(opt::ABORT, &[])),
        name().prop_map(|name| option(opt::INFO, &go(name, &[1, 2, 3]))),
        name().prop_map(|name| option(opt::GO, &go(name, &[3]))),
        name().prop_map(|name| option(opt::EXPORT_NAME, name.as_bytes())),
        name().prop_map(|n| option(opt::SET_META_CONTEXT, &contexts(n, &["base:allocation"]))),
        (any::<u32>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(code, data)| option(code, &data)),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(one, 0..8).prop_map(|options| options.concat())
}

/// Everything a client could notice, and what is handed on.
fn outcome(negotiation: &mut Negotiation, pieces: &[&[u8]]) -> (String, Vec<u8>) {
    let exports = two();
    for (number, piece) in pieces.iter().enumerate() {
        match negotiation.receive(piece, &exports) {
            Progress::Continue => {}
            Progress::StartTls => return ("TLS".into(), negotiation.output.clone()),
            Progress::Closed => return ("closed".into(), negotiation.output.clone()),
            Progress::Ready(mut agreed) => {
                agreed.input.extend(pieces[number + 1..].concat());
                let output = std::mem::take(&mut agreed.output);
                return (format!("{agreed:?}"), output);
            }
        }
    }
    ("more".into(), negotiation.output.clone())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_session(
        bytes in session(),
        cuts in prop::collection::vec(0.0f64..1.0, 0..12),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|c| (c * bytes.len() as f64) as usize).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let single: Vec<_> = bytes.chunks(1).collect();
        let whole = outcome(&mut begun(3, &two()), &[&bytes]);
        prop_assert_eq!(&outcome(&mut begun(3, &two()), &pieces), &whole);
        prop_assert_eq!(&outcome(&mut begun(3, &two()), &single), &whole);
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let (result, _) = outcome(&mut Negotiation::default(), &[&bytes]);
        prop_assert!(bytes.len() < 4 || bytes[..3] == [0; 3] || result == "closed");
        // The same as option data.
        for code in 1..12 {
            let _ = outcome(&mut begun(3, &two()), &[&option(code, &bytes)]);
        }
    }
}
