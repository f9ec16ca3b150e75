//! A write-intent bitmap as `mdadm --examine-bitmap` prints it (4.2, observed).

use std::fmt::Write as _;

use umd_format::bitmap::{
    Fields, RegionState, State, VERSION_HOST_ENDIAN, VERSION_LOCKLESS, VERSION_NORMAL,
};

use crate::units::human_tail;

/// What a bitmap comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// Bits.
    pub count: u64,
    /// Those that are set.
    pub dirty: u64,
    /// Of a lockless bitmap, how many regions are in each state.
    pub states: Option<[u64; 8]>,
}

/// The states of a lockless bitmap, in the words of the kernel's `md/llbitmap/bits`.
const STATE_WORDS: [&str; 8] = [
    "unwritten",
    "clean",
    "dirty",
    "need sync",
    "syncing",
    "need sync unwritten",
    "syncing unwritten",
    "clean unwritten",
];

/// Counts states.
pub fn count_states(bytes: &[u8]) -> Bits {
    let mut states = [0; 8];
    for byte in bytes {
        states[usize::from(RegionState::of(*byte).byte())] += 1;
    }
    let marked = RegionState::ALL
        .into_iter()
        .filter(|state| state.is_marked());
    Bits {
        count: bytes.len() as u64,
        dirty: marked.map(|state| states[usize::from(state.byte())]).sum(),
        states: Some(states),
    }
}

/// Whether there is a byte of state for each region.
pub fn is_lockless(fields: &Fields) -> bool {
    fields.version == VERSION_LOCKLESS
}

/// Whether this version's bits can be counted.
pub fn is_plain(fields: &Fields) -> bool {
    matches!(fields.version, VERSION_HOST_ENDIAN | VERSION_NORMAL)
}

/// Counts the bits in `bytes`, which begin behind the superblock.
pub fn count(bytes: &[u8], bits: u64) -> Bits {
    let set = |bit: u64| {
        let byte = usize::try_from(bit / 8).ok().and_then(|at| bytes.get(at));
        byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    };
    Bits {
        count: bits,
        dirty: (0..bits).filter(|bit| set(*bit)).count() as u64,
        states: None,
    }
}

fn state(state: State) -> &'static str {
    match state.without(State::HOST_ENDIAN) {
        State(0) => "OK",
        State::STALE => "Out of date",
        _ => "Unknown",
    }
}

fn chunk(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MB", bytes >> 20),
        _ => format!("{} GB", bytes >> 30),
    }
}

/// All of it; `bits` where they can be counted.
pub fn examine(name: &str, magic: u32, fields: &Fields, bits: Option<Bits>) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(out, "{key:>16} : {value}");
    };
    line("Filename", name.to_owned());
    line("Magic", format!("{magic:08x}"));
    line("Version", fields.version.to_string());
    let Some(bits) = bits else {
        return out;
    };
    line("UUID", fields.uuid.to_string());
    line("Events", fields.events.to_string());
    line("Events Cleared", fields.events_cleared.to_string());
    line("State", state(fields.state).to_owned());
    line("Chunksize", chunk(fields.region_bytes()));
    line("Daemon", format!("{}s flush period", fields.daemon_sleep_s));
    line(
        "Write Mode",
        match fields.write_behind {
            0 => "Normal".to_owned(),
            most => format!("Allow write behind, max {most}"),
        },
    );
    let kib = fields.sync_size_sectors / 2;
    let tail = human_tail(fields.sync_size_sectors.saturating_mul(512));
    line("Sync Size", format!("{kib}{tail}"));
    if let Some(states) = bits.states {
        let some = STATE_WORDS.into_iter().zip(states);
        let some = some.filter(|(_, count)| *count > 0);
        let words: Vec<String> = some
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        line("Regions", format!("{} ({})", bits.count, words.join(", ")));
        return out;
    }
    let percent = 100.0 * bits.dirty as f64 / bits.count.max(1) as f64;
    line(
        "Bitmap",
        format!(
            "{} bits (chunks), {} dirty ({percent:2.1}%)",
            bits.count, bits.dirty
        ),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockless_bitmaps_tell_their_states() {
        let made = BitmapSuperblock::new_lockless(umd_format::Uuid([1; 16]), 5 * 128);
        let made = made.expect("a small one");
        let bits = count_states(&[0, 1, 2, 9, 1]);
        assert_eq!((bits.count, bits.dirty), (5, 2));
        let shown = examine("a.img", 0x6d74_6962, &made.fields, Some(bits));
        assert!(shown.contains("         Version : 6\n"), "{shown}");
        assert!(shown.contains("       Chunksize : 64 KB\n"), "{shown}");
        let states = "         Regions : 5 (1 unwritten, 2 clean, 1 dirty, 1 need sync)\n";
        assert!(shown.ends_with(states), "{shown}");
    }
    use umd_format::bitmap::BitmapSuperblock;

    /// As mdadm 4.2 printed these bitmaps.
    #[test]
    fn bitmaps_look_as_mdadm_prints_them() {
        let uuid = "25b43d3e:5d224c16:a51a57b2:ca2af8d2".parse();
        let mut made = BitmapSuperblock::new(uuid.expect("a UUID"), 81_920, 4 << 20);
        made.fields.events = 1;
        made.fields.events_cleared = 1;
        made.fields.write_behind = 100;
        let mut bytes = vec![0; 2];
        let shown = examine("bm", 0x6d74_6962, &made.fields, Some(count(&bytes, 10)));
        assert_eq!(
            shown,
            "        Filename : bm
           Magic : 6d746962
         Version : 4
            UUID : 25b43d3e:5d224c16:a51a57b2:ca2af8d2
          Events : 1
  Events Cleared : 1
           State : OK
       Chunksize : 4 MB
          Daemon : 5s flush period
      Write Mode : Allow write behind, max 100
       Sync Size : 40960 (40.00 MiB 41.94 MB)
          Bitmap : 10 bits (chunks), 0 dirty (0.0%)
"
        );
        (bytes[0], bytes[1]) = (5, 0xfc);
        made.fields.state = State::STALE;
        made.fields.write_behind = 0;
        let shown = examine("bm", 0x6d74_6962, &made.fields, Some(count(&bytes, 10)));
        for wanted in [
            "           State : Out of date\n",
            "      Write Mode : Normal\n",
            "          Bitmap : 10 bits (chunks), 2 dirty (20.0%)\n",
        ] {
            assert!(shown.contains(wanted), "{shown}");
        }
    }
}
