//! A write-intent bitmap as `mdadm --examine-bitmap` prints it (4.2, observed).

use std::fmt::Write as _;

use umd_format::bitmap::{
    Fields, NodeBitmap, RegionState, Slots, State, VERSION_HOST_ENDIAN, VERSION_LOCKLESS,
    VERSION_NORMAL,
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

struct Lines(String);

impl Lines {
    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key:>16} : {value}");
    }

    fn head(name: &str, magic: u32, fields: &Fields) -> Lines {
        let mut lines = Lines(String::new());
        lines.line("Filename", name);
        lines.line("Magic", format_args!("{magic:08x}"));
        lines.line("Version", fields.version);
        lines
    }

    fn state(&mut self, fields: &Fields) {
        self.line("Events", fields.events);
        self.line("Events Cleared", fields.events_cleared);
        self.line("State", state(fields.state));
    }

    /// What concerns all of the array.
    fn shape(&mut self, fields: &Fields) {
        self.line("Chunksize", chunk(fields.region_bytes()));
        self.line(
            "Daemon",
            format_args!("{}s flush period", fields.daemon_sleep_s),
        );
        match fields.write_behind {
            0 => self.line("Write Mode", "Normal"),
            most => self.line("Write Mode", format_args!("Allow write behind, max {most}")),
        }
        let kib = fields.sync_size_sectors / 2;
        let tail = human_tail(fields.sync_size_sectors.saturating_mul(512));
        self.line("Sync Size", format_args!("{kib}{tail}"));
    }

    fn bits(&mut self, bits: Bits) {
        let percent = 100.0 * bits.dirty as f64 / bits.count.max(1) as f64;
        self.line(
            "Bitmap",
            format_args!(
                "{} bits (chunks), {} dirty ({percent:2.1}%)",
                bits.count, bits.dirty
            ),
        );
    }
}

/// The bitmaps of all nodes of a cluster.
pub fn examine_slots(name: &str, magic: u32, slots: &Slots, nodes: &[NodeBitmap]) -> String {
    let mut out = Lines::head(name, magic, &slots.first);
    out.line("UUID", slots.first.uuid);
    out.shape(&slots.first);
    out.line("Cluster nodes", slots.nodes());
    out.line("Cluster name", format_args!("{:<64}", slots.cluster()));
    for (number, node) in nodes.iter().enumerate() {
        out.line("Node Slot", number);
        match &node.fields {
            Ok(fields) => out.state(fields),
            Err(why) => {
                out.line("State", why);
                continue;
            }
        }
        out.bits(Bits {
            count: slots.regions(),
            dirty: node.dirty.len() as u64,
            states: None,
        });
    }
    out.0
}

/// All of it; `bits` where they can be counted.
pub fn examine(name: &str, magic: u32, fields: &Fields, bits: Option<Bits>) -> String {
    let mut out = Lines::head(name, magic, fields);
    let Some(bits) = bits else {
        return out.0;
    };
    out.line("UUID", fields.uuid);
    out.state(fields);
    out.shape(fields);
    let Some(states) = bits.states else {
        out.bits(bits);
        return out.0;
    };
    let some = STATE_WORDS.into_iter().zip(states);
    let some = some.filter(|(_, count)| *count > 0);
    let words: Vec<String> = some
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    let words = words.join(", ");
    out.line("Regions", format_args!("{} ({words})", bits.count));
    out.0
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

    /// As mdadm 4.2 printed one of kernel 6.1 that was made clustered.
    #[test]
    fn bitmaps_of_a_cluster_are_told_node_by_node() {
        let array = umd_format::Uuid([1; 16]);
        let plain = BitmapSuperblock::new(array, 47_104, 1 << 20);
        let mut name = [0; 64];
        name[..4].copy_from_slice(b"hall");
        let mut area = umd_format::bitmap::initial_slots(&plain, 2, name);
        area[4096 + 4] = 9;
        let slots = Slots::of(&area, array).expect("a cluster's");
        let shown = examine_slots("a", 0x6d74_6962, &slots, &slots.read(&area, array));
        let (head, nodes) = shown.split_once("   Cluster nodes : 2\n").expect("nodes");
        assert!(
            head.ends_with("       Sync Size : 23552 (23.00 MiB 24.12 MB)\n"),
            "{head}"
        );
        let wanted = format!(
            "    Cluster name : {:<64}
       Node Slot : 0
          Events : 0
  Events Cleared : 0
           State : OK
          Bitmap : 23 bits (chunks), 23 dirty (100.0%)
       Node Slot : 1
           State : bitmap superblock is impossible: the bitmaps of the nodes do not agree about \
             the array
",
            "hall"
        );
        assert_eq!(nodes, wanted);
    }
}
