//! The files: which are read, and which devices `DEVICE` stands for.
//!
//! ```text
//!   --config FILE        that one; a directory: its *.conf, sorted; `none`; `partitions`
//!   otherwise, root      /etc/mdadm/mdadm.conf, else /etc/mdadm.conf; then FILE.d/*.conf
//!              others    $XDG_CONFIG_HOME/umd/mdadm.conf (~/.config/umd/...); then FILE.d/*.conf
//! ```

use std::io;
use std::path::{Path, PathBuf};

use super::{Config, DeviceWord, Problem, glob};

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// What the files say.
    pub config: Config,
    /// What in them makes no sense.
    pub problems: Vec<Problem>,
}

/// Files longer than this are not configuration.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads the configuration: the file that was named, or those of this user.
///
/// # Errors
/// One sentence, when a file is there (or was named) and cannot be read.
pub fn load(named: Option<&str>) -> Result<Loaded, String> {
    let mut loaded = Loaded::default();
    match named {
        Some("none") => {}
        Some("partitions") => loaded.config.devices.push(DeviceWord::Partitions),
        Some(path) => {
            let path = Path::new(path);
            if path.is_dir() {
                loaded.take_dir(path)?;
            } else if !loaded.take(path)? {
                let text = "No such file or directory";
                return Err(format!("cannot read {}: {text}", path.display()));
            }
        }
        None => {
            let places = default_places();
            for place in &places {
                let there = loaded.take(place)?;
                let mut dir = place.clone().into_os_string();
                dir.push(".d");
                loaded.take_dir(Path::new(&dir))?;
                if there {
                    break;
                }
            }
        }
    }
    Ok(loaded)
}

fn default_places() -> Vec<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return vec!["/etc/mdadm/mdadm.conf".into(), "/etc/mdadm.conf".into()];
    }
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let xdg = set("XDG_CONFIG_HOME").filter(|dir| dir.is_absolute());
    let dir = xdg.or_else(|| Some(set("HOME")?.join(".config")));
    let file = dir.map(|dir| dir.join("umd/mdadm.conf"));
    file.into_iter().collect()
}

impl Loaded {
    /// Reads one file; tells whether it is there.
    fn take(&mut self, path: &Path) -> Result<bool, String> {
        use std::io::Read;
        let failed = |error: io::Error| {
            let text = crate::daemon::open::os_text(&error);
            format!("cannot read {}: {text}", path.display())
        };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        let mut limited = file.take(FILE_BYTES_MAX + 1);
        limited.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!(
                "{} is larger than {} MiB: this is no configuration file",
                path.display(),
                FILE_BYTES_MAX >> 20
            ));
        }
        let text = String::from_utf8_lossy(&bytes);
        let name = path.display().to_string();
        self.config.read(&name, &text, &mut self.problems);
        Ok(true)
    }

    /// Reads the `*.conf` of a directory, in the order of their names.
    fn take_dir(&mut self, dir: &Path) -> Result<(), String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names
            .filter(|name| name.ends_with(".conf") && !name.starts_with('.'))
            .collect();
        names.sort();
        for name in names {
            self.take(&dir.join(name))?;
        }
        Ok(())
    }
}

impl Config {
    /// The devices that may be members, in mdadm's order: what is named last comes first.
    pub fn candidates(&self) -> Vec<String> {
        let all = [DeviceWord::Partitions];
        let words: &[DeviceWord] = match self.devices.is_empty() {
            true => &all,
            false => &self.devices,
        };
        let mut found: Vec<String> = Vec::new();
        for word in words {
            let paths = match word {
                DeviceWord::Partitions => partitions(),
                DeviceWord::Containers => Vec::new(),
                DeviceWord::Pattern(pattern) => expand(pattern),
            };
            for path in paths {
                if !found.contains(&path) {
                    found.push(path);
                }
            }
        }
        found.reverse();
        found
    }
}

/// The files that a pattern stands for, those with a name that can be said.
pub fn expand(pattern: &str) -> Vec<String> {
    let paths = glob::expand(pattern).into_iter();
    paths
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect()
}

/// The block devices in /proc/partitions.
fn partitions() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    let names = text
        .lines()
        .skip(2)
        .filter_map(|line| line.split_whitespace().nth(3));
    let paths = names.map(|name| format!("/dev/{}", name.replace('!', "/")));
    paths.filter(|path| Path::new(path).exists()).collect()
}
