//! Writes a cpio archive in the "newc" form, which the kernel takes as an initramfs.
//!
//! Each entry is a header of `070701` and thirteen 8-digit hex numbers, the NUL-ended name padded
//! to 4 bytes, the data padded to 4 bytes; the archive ends with an empty entry named `TRAILER!!!`.
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst.)

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction, in memory.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory. Parents must have been added before.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds an executable file.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, FILE | 0o755, (0, 0), data);
    }

    /// Adds a character device node.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Ends the archive and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        assert!(!name.starts_with('/'), "archive names are relative: {name}");
        self.entries += 1;
        let size = u32::try_from(data.len()).expect("archive members are smaller than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        let (major, minor) = device;
        let (inode, links) = (self.entries, 1);
        let fields = [
            inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_documented_form() {
        let mut archive = Archive::default();
        archive.file("init", b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6 + 8..6 + 16], b"000081ed", "mode 0100755");
        assert_eq!(&bytes[6 + 6 * 8..6 + 7 * 8], b"00000005", "size");
        assert_eq!(
            &bytes[6 + 11 * 8..6 + 12 * 8],
            b"00000005",
            "name with its NUL"
        );
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(
            &bytes[116..121],
            b"hello",
            "data begins on a multiple of four"
        );
        assert!(bytes.len().is_multiple_of(4));
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
