//! `umd demo`: the main job on image files, step by step, each with the command that does it.
//!
//! ```text
//!   make a RAID5 -> serve -> write through NBD -> delete a member's file -> go on -> add a new
//!   one, rebuild -> check -> compare
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use umd_export::nbd::Address;
use umd_export::nbd::client::{Client as NbdClient, ClientError as NbdError};

use crate::api::{CreateRequest, DeviceRequest, DoneDoc, ManageRequest, StartedDoc, WaitDoc};
use crate::cli::args::DemoArgs;
use crate::cli::outcome::{Failure, Outcome, print};
use crate::cli::reach::Reach;
use crate::cli::values;
use crate::doc::ArrayDoc;
use crate::text::detail;
use crate::text::mdstat::mdstat;
use crate::text::progress::Progress;

/// The array's name.
const NAME: &str = "demo";
/// Bytes per NBD request.
const PIECE_BYTES: usize = 256 << 10;
/// How long a vanished member may stay unnoticed.
const NOTICE_PATIENCE: Duration = Duration::from_secs(30);
/// The smallest image: room for metadata and something to write.
const SIZE_SECTORS_MIN: u64 = 8 << 11;

struct Demo<'a> {
    dir: PathBuf,
    reach: &'a Reach,
    runtime_option: String,
}

/// Runs the demonstration. The array is left running, for the user to look at.
///
/// # Errors
/// When a step fails, or the directory is in use.
pub fn run(args: &DemoArgs, reach: &Reach) -> Outcome {
    let size = values::size_sectors(&args.size)?.unwrap_or(SIZE_SECTORS_MIN);
    if size < SIZE_SECTORS_MIN {
        return Err(Failure::usage("the demo needs images of at least 8M"));
    }
    let dir = values::absolute(&args.dir.display().to_string())?;
    let occupied = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(Failure::failed(format!(
            "{} exists and is not empty; remove it (umd stop {NAME}; rm -r {}) or name another \
             directory",
            dir.display(),
            args.dir.display()
        )));
    }
    fs::create_dir_all(&dir)
        .map_err(|error| Failure::failed(format!("cannot make {}: {error}", dir.display())))?;
    let default = Reach::new(None).map(|reach| reach.runtime);
    let runtime_option = match default {
        Ok(default) if default == reach.runtime => String::new(),
        _ => format!(" --runtime-dir {}", reach.runtime.dir().display()),
    };
    let demo = Demo {
        dir,
        reach,
        runtime_option,
    };
    demo.play(size)?;
    Ok(0)
}

/// Data that differs from block to block and from round to round.
fn pattern(offset: u64, length: usize, round: u8) -> Vec<u8> {
    let mut state = (offset / 512 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(round);
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        // xorshift64: cheap, and good enough to tell any two blocks apart.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn nbd(error: NbdError) -> Failure {
    Failure::failed(format!("over NBD: {error}"))
}

/// What was written where: the ranges of each round, later ones on top.
struct Written {
    bytes: u64,
    second_round: std::ops::Range<u64>,
}

impl Demo<'_> {
    fn image(&self, letter: char) -> String {
        self.dir.join(format!("{letter}.img")).display().to_string()
    }

    fn step(&self, number: u32, what: &str, command: &str) -> Result<(), Failure> {
        let options = &self.runtime_option;
        print(&format!(
            "\n{number}. {what}\n   $ {}\n",
            command.replace("umd ", &format!("umd{options} "))
        ))
    }

    fn play(&self, size_sectors: u64) -> Result<(), Failure> {
        let here = relative(&self.dir);
        let shown = |letter| format!("{here}/{letter}.img");
        let in_dir = self.dir.display();
        print(&format!("Images go to {in_dir}.\n"))?;
        let images = [shown('a'), shown('b'), shown('c')].join(" ");
        let kib = size_sectors / 2;
        let size = match kib % 1024 {
            0 => format!("{}M", kib / 1024),
            _ => format!("{kib}K"),
        };
        let command =
            format!("umd create {NAME} -l 5 -n 3 -c 64K --bitmap internal --size {size} {images}");
        self.step(1, "Make a RAID5 on three files, and start it.", &command)?;
        let array = self.create(size_sectors)?;
        let address = self.address(&array)?;
        print(&format!("   {}\n", summary(&array)))?;
        let array = self.wait(&format!("umd wait {NAME}"))?;
        print(&format!("   {}\n", summary(&array)))?;

        let uri = address.uri(NAME);
        let command = format!("nbdinfo '{uri}'");
        self.step(
            2,
            "It is served over NBD: write through the socket.",
            &command,
        )?;
        let mut client = NbdClient::connect(&address, NAME).map_err(nbd)?;
        let bytes = client.size_bytes() / 2 / PIECE_BYTES as u64 * PIECE_BYTES as u64;
        let mut written = Written {
            bytes,
            second_round: 0..0,
        };
        self.write(&mut client, 0..bytes, 1)?;
        self.compare(&mut client, &written)?;

        let command = format!("rm {}", shown('b'));
        self.step(
            3,
            "Lose a member: its file is deleted while the array works.",
            &command,
        )?;
        fs::remove_file(self.image('b')).map_err(|error| Failure::failed(error.to_string()))?;
        let array = self.wait_for_loss()?;
        print(&format!("   {}\n", summary(&array)))?;

        let command = format!("umd detail {NAME}");
        self.step(
            4,
            "It goes on: read what was on the lost member, write more.",
            &command,
        )?;
        self.compare(&mut client, &written)?;
        written.second_round = bytes / 4..bytes / 2;
        self.write(&mut client, written.second_round.clone(), 2)?;
        self.compare(&mut client, &written)?;

        self.mend(&mut client, &written, &shown('d'))?;
        client.disconnect().map_err(nbd)?;
        self.farewell(&self.reach.detail(NAME)?, &uri)
    }

    /// A new member, rebuilt, and the check that everything agrees.
    fn mend(
        &self,
        client: &mut NbdClient,
        written: &Written,
        new_image: &str,
    ) -> Result<(), Failure> {
        let command = format!(
            "umd manage {NAME} --remove failed --add {}   # a new, empty file",
            new_image
        );
        self.step(5, "Replace it; the new member is rebuilt.", &command)?;
        let length = fs::metadata(self.image('a')).map_or(0, |found| found.len());
        self.replace(length)?;
        let array = self.wait(&format!("umd wait {NAME}"))?;
        print(&format!("   {}\n", summary(&array)))?;

        let command = format!("umd action {NAME} check --wait");
        self.step(6, "Check that data and parity agree everywhere.", &command)?;
        let array = self.check()?;
        print(&format!("   mismatch_cnt {}\n", array.mismatch_cnt))?;
        if array.mismatch_cnt != 0 {
            return Err(Failure::failed("the check found differences"));
        }
        self.compare(client, written)
    }

    fn create(&self, size_sectors: u64) -> Result<ArrayDoc, Failure> {
        let device = |letter| DeviceRequest {
            path: self.image(letter),
            write_mostly: false,
            failfast: false,
        };
        let request = CreateRequest {
            name: NAME.to_owned(),
            set_name: NAME.to_owned(),
            uuid: None,
            metadata: "1.2".into(),
            level: 5,
            layout: 2,
            chunk_sectors: 128,
            size_sectors: Some(size_sectors),
            data_offset_sectors: None,
            bitmap: Some(true),
            bitmap_lockless: false,
            bitmap_file: None,
            bitmap_chunk_bytes: None,
            bitmap_delay_seconds: None,
            write_behind: 0,
            bad_block_log: true,
            assume_clean: false,
            slots: ['a', 'b', 'c'].map(|letter| Some(device(letter))).to_vec(),
            spares: Vec::new(),
            destroy: Vec::new(),
            destroy_all: false,
            readonly: false,
            io_engine: None,
        };
        let started: StartedDoc = self.reach.post_to_daemon("/v1/create", &request)?;
        for line in &started.messages {
            print(&format!("   {line}\n"))?;
        }
        Ok(started.array)
    }

    fn address(&self, array: &ArrayDoc) -> Result<Address, Failure> {
        let text = array
            .nbd
            .first()
            .ok_or_else(|| Failure::failed("the daemon serves nowhere"))?;
        text.parse()
            .map_err(|error| Failure::failed(format!("{error}")))
    }

    fn write(
        &self,
        client: &mut NbdClient,
        range: std::ops::Range<u64>,
        round: u8,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        for offset in range.clone().step_by(PIECE_BYTES) {
            client
                .pwrite(offset, &pattern(offset, PIECE_BYTES, round))
                .map_err(nbd)?;
        }
        client.flush().map_err(nbd)?;
        let bytes = range.end - range.start;
        print(&format!(
            "   wrote {} in {:.1?}, flushed\n",
            mib(bytes),
            start.elapsed()
        ))
    }

    fn compare(&self, client: &mut NbdClient, written: &Written) -> Result<(), Failure> {
        for offset in (0..written.bytes).step_by(PIECE_BYTES) {
            let round = if written.second_round.contains(&offset) {
                2
            } else {
                1
            };
            let read = client.pread(offset, PIECE_BYTES as u32).map_err(nbd)?;
            if read != pattern(offset, PIECE_BYTES, round) {
                return Err(Failure::failed(format!(
                    "what was read at byte {offset} is wrong"
                )));
            }
        }
        print(&format!(
            "   read {} back: every byte as written\n",
            mib(written.bytes)
        ))
    }

    fn wait_for_loss(&self) -> Result<ArrayDoc, Failure> {
        let start = Instant::now();
        loop {
            let array = self.reach.detail(NAME)?;
            if array.failed_devices() > 0 {
                return Ok(array);
            }
            if start.elapsed() > NOTICE_PATIENCE {
                return Err(Failure::failed("the loss of a member went unnoticed"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn replace(&self, length: u64) -> Result<(), Failure> {
        let path = self.image('d');
        fs::File::create_new(&path)
            .and_then(|file| file.set_len(length))
            .map_err(|error| Failure::failed(format!("cannot make {path}: {error}")))?;
        for (operation, device) in [("remove", "failed".to_owned()), ("add", path)] {
            let request = ManageRequest {
                with: None,
                operation: operation.to_owned(),
                device,
                write_mostly: None,
                failfast: None,
                force: false,
                bad_block_log: None,
            };
            let done: DoneDoc = self.reach.post(NAME, "manage", &request)?;
            for line in &done.messages {
                print(&format!("   {line}\n"))?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<ArrayDoc, Failure> {
        let request = crate::api::ActionRequest {
            action: Some("check".to_owned()),
            ..crate::api::ActionRequest::default()
        };
        let _: DoneDoc = self.reach.post(NAME, "action", &request)?;
        self.until_idle()
    }

    fn wait(&self, command: &str) -> Result<ArrayDoc, Failure> {
        print(&format!(
            "   $ {}\n",
            command.replace("umd ", &format!("umd{} ", self.runtime_option))
        ))?;
        self.until_idle()
    }

    fn until_idle(&self) -> Result<ArrayDoc, Failure> {
        let mut progress = Progress::new(false);
        let mut client = self.reach.require(NAME)?;
        loop {
            let seen: WaitDoc = client.get(&format!("/v1/arrays/{NAME}/wait?timeout_ms=200"))?;
            if seen.idle {
                return Ok(seen.array);
            }
            let line = seen
                .array
                .sync
                .as_ref()
                .and_then(|sync| progress.update(NAME, sync));
            if let Some(line) = line {
                print(&format!("   {line}"))?;
            }
        }
    }

    fn farewell(&self, array: &ArrayDoc, uri: &str) -> Result<(), Failure> {
        let text = mdstat(std::slice::from_ref(array));
        let lines: String = text
            .lines()
            .skip(1)
            .take(3)
            .map(|line| format!("   {line}\n"))
            .collect();
        print(&format!("\nDone. The array is running:\n{lines}"))?;
        let relative = relative(&self.dir);
        let options = &self.runtime_option;
        let mut out = String::from("\nWhat to type next:\n");
        for (command, what) in [
            (format!("umd{options} detail {NAME}"), "all about it"),
            (
                format!("umd{options} examine {relative}/a.img"),
                "what is on a member",
            ),
            (
                format!("umd{options} mdstat"),
                "all arrays, as /proc/mdstat shows them",
            ),
            (
                format!("nbdcopy '{uri}' copy.img"),
                "copy it out with any NBD client",
            ),
            (format!("umd{options} stop {NAME}"), "stop it"),
            (
                format!("umd{options} assemble {relative}/a.img {relative}/c.img {relative}/d.img"),
                "start it again (the kernel's mdadm could, too)",
            ),
        ] {
            out.push_str(&format!("   {command}\n       # {what}\n"));
        }
        print(&out)
    }
}

fn summary(array: &ArrayDoc) -> String {
    format!(
        "{}: {}, {} of {} members in sync",
        array.name,
        detail::state(array),
        array.active_devices(),
        array.raid_disks
    )
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// The directory as the user would name it from here.
fn relative(dir: &Path) -> String {
    let here = std::env::current_dir().ok();
    let inside = here.and_then(|here| dir.strip_prefix(here).ok().map(Path::to_path_buf));
    inside
        .unwrap_or_else(|| dir.to_owned())
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_differ_by_place_and_round() {
        assert_ne!(pattern(0, 512, 1), pattern(512, 512, 1));
        assert_ne!(pattern(0, 512, 1), pattern(0, 512, 2));
        assert_eq!(pattern(0, 1000, 1)[..512], pattern(0, 512, 1)[..]);
    }
}
