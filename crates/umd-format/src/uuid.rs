//! The 16-byte identifiers of arrays and members.

use std::fmt;
use std::str::FromStr;

/// An array's or a member's UUID in raw byte order, as it stands in a v1.x superblock.
///
/// Displayed the way mdadm prints it: four groups of eight digits, separated by colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

/// Text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID: 32 hexadecimal digits are needed, ':' and '-' between them allowed")]
pub struct UuidError(String);

impl Uuid {
    /// The 8-4-4-4-12 form that sysfs and the rest of the world use.
    pub fn canonical(&self) -> String {
        self.grouped(&[4, 6, 8, 10], '-')
    }

    fn grouped(&self, breaks: &[usize], separator: char) -> String {
        let mut text = String::with_capacity(36);
        for (index, byte) in self.0.iter().enumerate() {
            if breaks.contains(&index) {
                text.push(separator);
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.grouped(&[4, 8, 12], ':'))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uuid({self})")
    }
}

impl FromStr for Uuid {
    type Err = UuidError;

    /// Reads either written form; the separators may stand anywhere.
    fn from_str(text: &str) -> Result<Self, UuidError> {
        let mut bytes = [0u8; 16];
        let mut digits = 0;
        for letter in text.chars().filter(|letter| !matches!(letter, ':' | '-')) {
            let value = letter
                .to_digit(16)
                .ok_or_else(|| UuidError(text.to_owned()))?;
            if digits == 32 {
                return Err(UuidError(text.to_owned()));
            }
            bytes[digits / 2] = bytes[digits / 2] << 4 | value as u8;
            digits += 1;
        }
        if digits == 32 {
            Ok(Uuid(bytes))
        } else {
            Err(UuidError(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_written() {
        let uuid: Uuid = "23d5df6b:1c017be0:d40e086f:9867cb64".parse().unwrap();
        assert_eq!(uuid.0[..5], [0x23, 0xd5, 0xdf, 0x6b, 0x1c]);
        assert_eq!(uuid.canonical(), "23d5df6b-1c01-7be0-d40e-086f9867cb64");
        assert_eq!(uuid.canonical().parse::<Uuid>().unwrap(), uuid);
        assert_eq!(uuid.to_string(), "23d5df6b:1c017be0:d40e086f:9867cb64");
    }

    #[test]
    fn too_short_too_long_and_not_hexadecimal_are_refused() {
        for text in ["", "23d5df6b", "23d5df6b:1c017be0:d40e086f:9867cb6", "zz"] {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
        assert!(
            "23d5df6b:1c017be0:d40e086f:9867cb6400"
                .parse::<Uuid>()
                .is_err()
        );
    }
}
