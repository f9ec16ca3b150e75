//! `umd grow`: what a running array is made with is changed. Today that is its bitmap.

use super::args::GrowArgs;
use super::outcome::{Failure, Outcome, print, print_json, say};
use super::reach::Reach;
use super::values::{self, BitmapWord};
use crate::api::{BitmapRequest, DoneDoc};
use crate::doc::ArrayDoc;

/// Runs the command.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &GrowArgs, reach: &Reach, quiet: bool) -> Outcome {
    let name = match &args.targets[..] {
        [] => {
            return Err(Failure::usage("an md device must be given in this mode"));
        }
        [name] => values::array_name(name)?,
        [_, other, ..] => {
            return Err(Failure::usage(format!(
                "{other}: devices are put in with umd manage --add; reshape is not available in \
                 this version"
            )));
        }
    };
    let request = request(args)?;
    if args.dry_run {
        let array = reach.detail(&name)?;
        for line in planned(&array, &request) {
            print(&format!("{line}\n"))?;
        }
        return Ok(0);
    }
    let done: DoneDoc = reach.post(&name, "bitmap", &request)?;
    if !quiet {
        done.messages.iter().for_each(|line| say(line));
    }
    if args.json {
        print_json(&reach.detail(&name)?)?;
    }
    Ok(0)
}

fn request(args: &GrowArgs) -> Result<BitmapRequest, Failure> {
    let later = [
        ("--raid-devices", &args.raid_devices),
        ("--level", &args.level),
        ("--size", &args.size),
        ("--chunk", &args.chunk),
        ("--layout", &args.layout),
        ("--consistency-policy", &args.consistency_policy),
    ];
    if let Some((option, _)) = later.iter().find(|(_, value)| value.is_some()) {
        return Err(Failure::usage(format!(
            "grow {option} (reshape) is not available in this version"
        )));
    }
    let Some(word) = &args.bitmap else {
        return Err(Failure::usage(
            "nothing to change: --bitmap=internal or --bitmap=none?",
        ));
    };
    let internal = match values::bitmap(word)? {
        BitmapWord::Internal => true,
        BitmapWord::None => false,
        BitmapWord::Lockless => {
            return Err(Failure::usage(
                "a running array gets no lockless bitmap: it tells from the first day what was \
                 written; an internal one can be added",
            ));
        }
        BitmapWord::File(path) => {
            return Err(Failure::usage(format!(
                "{path}: a running array gets no bitmap file in this version; stop it, and \
                 assemble it with --bitmap=FILE, or add an internal one"
            )));
        }
    };
    let chunk = args.bitmap_chunk.as_deref();
    if chunk.is_some() && !internal {
        return Err(Failure::usage("--bitmap-chunk needs --bitmap=internal"));
    }
    Ok(BitmapRequest {
        internal,
        chunk_bytes: chunk.map(values::bitmap_chunk_bytes).transpose()?,
    })
}

fn planned(array: &ArrayDoc, request: &BitmapRequest) -> Vec<String> {
    let name = &array.name;
    let mut lines = vec![match request.internal {
        true => format!("would add a bitmap to {name}"),
        false => format!("would remove the bitmap of {name}"),
    }];
    let working = array.members.iter().filter(|m| m.state != "faulty");
    for member in working {
        if request.internal && member.slot.is_some() {
            lines.push(format!("would write a bitmap to {}", member.path));
        }
        lines.push(format!(
            "would write the version {} superblock of {}",
            array.metadata, member.path
        ));
    }
    lines
}
