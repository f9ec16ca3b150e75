//! mdadm.conf: whatever is in it, every line is understood, or named by its number and left out.

use umd::conf::{ArrayName, Config, DeviceWord, Identity, Problem, glob};
use umd_format::{Format, Uuid};

fn read(text: &str) -> (Config, Vec<Problem>) {
    let (mut config, mut problems) = (Config::default(), Vec::new());
    config.read("fuzz", text, &mut problems);
    (config, problems)
}

/// Runs it.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (config, problems) = read(&text);
    assert_eq!(read(&text), (config.clone(), problems.clone()));
    let lines = text.lines().count().max(1);
    for problem in &problems {
        assert!((1..=lines).contains(&problem.place.line), "{problem}");
        assert!(!problem.text.is_empty() && problem.place.file == "fuzz");
    }
    // What is asked of a configuration, whatever it says.
    let found = Identity {
        uuid: Uuid([7; 16]),
        set_name: "host:r5".into(),
        preferred_minor: Some(5),
        format: Format::V090,
        level: 5,
        raid_disks: 3,
    };
    let home = config.home("host");
    for line in &config.arrays {
        let _ = line.fits(&found, home.as_deref());
        if let ArrayName::Named(name) = &line.name {
            assert!(config.named(name).is_some());
        }
    }
    for format in [Format::V090, Format::V1_0, Format::V1_2] {
        let _ = (config.allows(format, true), config.allows(format, false));
    }
    for word in &config.devices {
        if let DeviceWord::Pattern(pattern) = word {
            let _ = glob::matches(pattern, "sda");
        }
    }
}
