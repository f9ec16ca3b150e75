//! Tests of the configuration: mdadm's grammar, its sentences, and nonsense.

use super::*;

fn read(text: &str) -> (Config, Vec<String>) {
    let mut config = Config::default();
    let mut problems = Vec::new();
    config.read("f", text, &mut problems);
    let texts = problems.iter().map(ToString::to_string).collect();
    (config, texts)
}

const UUID: &str = "11112222:33334444:55556666:77778888";

#[test]
fn words_lines_comments_and_quotes_are_mdadms() {
    let text = format!(
        "# all of it\n\
         dev /a/*.img   partitions # behind\n\
         \n\
         ARRay \"r q\" x\n\
         aRR /dev/md/r5 UUID={UUID}\n\
         \n\
         # a comment ends nothing\n\
         \t name=\"two words\" spares=1 \n\
         \x20 spare-group='a b' n#o=1\n\
         MAILADDR root@x\nMAILFROM Array Watch <w@x>\nPRO /bin/true\nHOME nas\n\
         MONITORD 30\nAUTO +1.x homehost -all\nPOLICY domain=a action=spare\n\
         CREATE metadata=1.0 bbl=no owner=root mode=0660\n"
    );
    let (config, problems) = read(&text);
    assert_eq!(
        problems,
        [
            "f:4: r q is an invalid name for an md device - ignored.",
            "f:4: only give one device per ARRAY line: r q and x",
            "f:4: ARRAY line r q has no identity information.",
            "f:9: unrecognised word on ARRAY line: n#o=1",
        ]
    );
    let [line] = &config.arrays[..] else {
        panic!("one array: {config:?}");
    };
    assert_eq!(line.name, ArrayName::Named("r5".into()));
    assert_eq!(
        line.uuid.map(|uuid| uuid.to_string()).as_deref(),
        Some(UUID)
    );
    assert_eq!(line.set_name.as_deref(), Some("two words"));
    assert_eq!(line.spare_group.as_deref(), Some("a b"));
    assert_eq!((line.spares, line.place.line), (Some(1), 5));
    assert_eq!(config.devices.len(), 2);
    assert_eq!(config.mail_to.as_deref(), Some("root@x"));
    assert_eq!(config.mail_from.as_deref(), Some("Array Watch <w@x>"));
    assert_eq!(config.program.as_deref(), Some("/bin/true"));
    assert_eq!(config.homehost.as_deref(), Some("nas"));
    assert_eq!(config.monitor_delay, Some(30));
    assert_eq!(config.create.metadata, Some(Format::V1_0));
    assert_eq!(config.create.bbl, Some(false));
    assert_eq!(config.policies[0].words.len(), 2);
}

#[test]
fn each_problem_is_one_sentence_with_its_place() {
    let cases = [
        ("BOGUS x", "Unknown keyword BOGUS"),
        ("DE /x", "Unknown keyword DE"),
        ("DEVICE x", "unrecognised word on DEVICE line: x"),
        ("ARRAY", "ARRAY line has no identity information."),
        ("ARRAY r", "ARRAY line r has no identity information."),
        ("ARRAY r name=a uuid=1", "bad uuid: uuid=1"),
        (
            "ARRAY /dev/sda name=a",
            "/dev/sda is an invalid name for an md device - ignored.",
        ),
        (
            "ARRAY r name=a name=b",
            "only specify name once, name=b ignored.",
        ),
        ("ARRAY r name=a level=77", "invalid raid level: 77"),
        (
            "ARRAY r name=a disks=0",
            "invalid number of raid devices: 0",
        ),
        (
            "ARRAY r name=a super-minor=x",
            "invalid super-minor number: super-minor=x",
        ),
        (
            "ARRAY r name=a metadata=9",
            "metadata format 9 unknown, ignored.",
        ),
        ("CREATE foo=1", "unrecognised word on CREATE line: foo=1"),
        ("CREATE metadata=9", "metadata format 9 unknown, ignoring"),
        (
            "POLICY zork=1",
            "policy rule zork=1 unrecognised and ignored",
        ),
        (
            "MONITORDELAY x",
            "MONITORDELAY is a number of seconds, not x",
        ),
        ("AUTO +foo", "unrecognised word on AUTO line: +foo"),
    ];
    for (text, problem) in cases {
        let (_, problems) = read(&format!("# one\n{text}\n"));
        assert_eq!(problems, [format!("f:2: {problem}")], "{text}");
    }
}

#[test]
fn auto_goes_by_the_first_word_that_fits() {
    let (config, _) = read("AUTO +0.90 homehost -all\n");
    assert!(config.allows(Format::V090, false));
    assert!(config.allows(Format::V1_2, true));
    assert!(!config.allows(Format::V1_2, false));
    assert!(Config::default().allows(Format::V1_2, false));
}

#[test]
fn a_device_fits_a_line_in_all_it_says() {
    let found = Identity {
        uuid: UUID.parse().expect("uuid"),
        set_name: "nas:r5".into(),
        preferred_minor: None,
        format: Format::V1_2,
        level: 5,
        raid_disks: 3,
    };
    let fits = |words: &str| {
        let (config, problems) = read(&format!("ARRAY x {words}\n"));
        assert!(problems.is_empty(), "{problems:?}");
        config.arrays[0].fits(&found, Some("nas"))
    };
    assert!(fits(&format!(
        "uuid={UUID} level=raid5 num-devices=3 metadata=1.2"
    )));
    assert!(fits("name=r5") && fits("name=nas:r5") && fits("name=r5 metadata=1"));
    for wrong in [
        "name=r6",
        "name=r5 level=6",
        "name=r5 metadata=1.0",
        "super-minor=5",
    ] {
        assert!(!fits(wrong), "{wrong}");
    }
    let (config, _) = read("ARRAY x name=r5\n");
    assert!(!config.arrays[0].fits(&found, Some("other")));
    assert!(config.arrays[0].fits(&found, None), "HOMEHOST <ignore>");
}

#[test]
fn patterns_match_as_in_a_shell() {
    for (pattern, name, fits) in [
        ("*.img", "a.img", true),
        ("*.img", ".a.img", false),
        ("sd[a-c]?", "sdb1", true),
        ("sd[a-c]?", "sdd1", false),
        ("sd[!a]", "sda", false),
        ("a[", "a[", true),
        ("[]a]", "]", true),
        ("*a*b*c", "xxaxxbxxbxc", true),
        ("*a*b*c", "xxaxxbxxbx", false),
        ("", "", true),
        ("*", "", true),
    ] {
        assert_eq!(glob::matches(pattern, name), fits, "{pattern} {name}");
    }
    let dir = tempfile::tempdir().expect("tempdir");
    for name in ["b1.img", "a1.img", "c.txt"] {
        std::fs::write(dir.path().join(name), "").expect("writes");
    }
    let pattern = format!("{}/*[0-9].img", dir.path().display());
    let names: Vec<_> = glob::expand(&pattern)
        .iter()
        .map(|path| path.file_name().expect("a name").to_owned())
        .collect();
    assert_eq!(names, ["a1.img", "b1.img"]);
    assert_eq!(glob::expand("/x/y"), [std::path::PathBuf::from("/x/y")]);
}

/// Deterministic noise out of the grammar's own pieces: nothing panics, everything is named with
/// a line that exists, and what is read a second time reads the same.
#[test]
fn nonsense_is_survived_and_named() {
    let pieces = [
        "ARRAY",
        "DEV",
        "AUTO",
        "CREATE",
        "POLICY",
        "HOMEHOST",
        "MONITORDELAY",
        "x",
        "\n",
        "\n ",
        " ",
        "#",
        "\"",
        "'",
        "=",
        "uuid=",
        "name=",
        "devices=",
        UUID,
        "/dev/md",
        "[",
        "*",
        "\t",
        "\r\n",
        "\u{fc}",
        "\0",
        "-1",
        "99999999999999999999",
        "<ignore>",
        ",",
        "level=",
        "spares=",
        "metadata=",
        "+",
        "-",
        "super-minor=",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..20_000 {
        let count = next(40);
        let text: String = (0..count).map(|_| pieces[next(pieces.len())]).collect();
        let mut config = Config::default();
        let mut problems = Vec::new();
        config.read("f", &text, &mut problems);
        let lines = text.lines().count();
        for problem in &problems {
            assert!((1..=lines).contains(&problem.place.line), "{text:?}");
            assert!(!problem.text.is_empty() && !problem.text.contains('\n'));
        }
        let (pattern, name) = text.split_at(text.char_indices().nth(3).map_or(0, |(at, _)| at));
        let _ = glob::matches(pattern, name);
        let _ = glob::matches(&text, &text);
        let mut again = Config::default();
        again.read("f", &text, &mut Vec::new());
        assert_eq!(again, config);
    }
}

#[test]
fn what_new_arrays_get_is_said_by_create_and_homehost() {
    let made = |text: &str| {
        let (config, problems) = read(text);
        assert_eq!(problems, [""; 0], "{text}");
        config
    };
    // What Debian's package writes.
    let config = made("CREATE owner=root group=disk mode=0660 auto=yes\nHOMEHOST <system>\n");
    assert_eq!(config.create, CreateLine::default());
    assert_eq!(config.stored_home(), Some("<system>"));
    for word in ["1", "default", "1.2"] {
        let config = made(&format!("CREATE metadata={word} names=yes symlinks=no\n"));
        assert_eq!(config.create.metadata, Some(Format::V1_2));
    }
    let config = made("HOMEHOST <ignore> shelf\nHOMECLUSTER rack\n");
    assert_eq!(config.home("here"), None, "no array is foreign");
    assert_eq!(config.stored_home(), Some("shelf"));
    assert_eq!(made("HOMEHOST <ignore>\n").stored_home(), None);
    assert_eq!(made("HOMEHOST nas\n").stored_home(), Some("nas"));
    let (config, problems) = read("HOMEHOST nas other\nHOMEHOST <ignore> late\n");
    assert_eq!(config.stored_home(), Some("nas"));
    assert_eq!(problems.len(), 3, "{problems:?}");
}
