//! Sizes as mdadm reads and prints them.
//!
//! | typed  | means                  | printed for people                      |
//! | ------ | ---------------------- | --------------------------------------- |
//! | `64`   | 64 KiB                 | nothing below 5000 KiB                  |
//! | `64K`  | 64 KiB                 | `(63.00 MiB 66.06 MB)` below 2 GiB      |
//! | `1M`   | 1 MiB (also G, T)      | `(2.00 GiB 2.15 GB)` below 2 TiB        |
//! | `8s`   | 8 sectors of 512 bytes | `(4.00 TiB 4.40 TB)` from there on      |

/// Sectors in a size given in mdadm's units; `None` if it is not one (or does not fit 64 bits).
/// A number without a suffix is in KiB. Zero is a number; whether it makes sense is for the caller.
pub fn parse_sectors(text: &str) -> Option<u64> {
    let (digits, sectors_per_unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 2),
        b'M' | b'm' => (&text[..text.len() - 1], 2 << 10),
        b'G' | b'g' => (&text[..text.len() - 1], 2 << 20),
        b'T' | b't' => (&text[..text.len() - 1], 2 << 30),
        b's' => (&text[..text.len() - 1], 1),
        _ => (text, 2),
    };
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(sectors_per_unit)
        .filter(|sectors| *sectors <= u64::MAX / 512)
}

/// `amount / unit` with two decimals, rounded half up.
fn hundredths(bytes: u64, unit: u64) -> String {
    let value = (u128::from(bytes) * 200 / u128::from(unit)).div_ceil(2);
    format!("{}.{:02}", value / 100, value % 100)
}

/// `121.0 MiB`, for sentences.
pub fn human(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x4000_0000 => (1 << 20, "MiB"),
        0x4000_0000..0x100_0000_0000 => (1 << 30, "GiB"),
        _ => (1 << 40, "TiB"),
    };
    let tenths = u128::from(bytes) * 10 / unit;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

const SMALL_BYTES: u64 = 5000 * 1024;

/// The scale mdadm picks for a size: binary unit, its name, decimal unit, its name.
fn scale(bytes: u64) -> (u64, &'static str, u64, &'static str) {
    if bytes < 2 << 30 {
        (1 << 20, "MiB", 1_000_000, "MB")
    } else if bytes < 2 << 40 {
        (1 << 30, "GiB", 1_000_000_000, "GB")
    } else {
        (1 << 40, "TiB", 1_000_000_000_000, "TB")
    }
}

/// ` (63.00 MiB 66.06 MB)`, or nothing for small sizes: the tail of mdadm's size lines.
pub fn human_tail(bytes: u64) -> String {
    if bytes < SMALL_BYTES {
        return String::new();
    }
    let (binary, binary_name, decimal, decimal_name) = scale(bytes);
    format!(
        " ({} {binary_name} {} {decimal_name})",
        hundredths(bytes, binary),
        hundredths(bytes, decimal)
    )
}

/// `132.12MB`, or nothing for small sizes: mdadm's decimal short form (`MD_ARRAY_SIZE`).
pub fn human_brief_decimal(bytes: u64) -> String {
    if bytes < SMALL_BYTES {
        return String::new();
    }
    let (_, _, decimal, name) = scale(bytes);
    format!("{}{name}", hundredths(bytes, decimal))
}

/// `126.00MiB`, any size: mdadm's binary short form (`--query`).
pub fn human_brief(bytes: u64) -> String {
    if bytes < SMALL_BYTES {
        return format!("{}KiB", hundredths(bytes, 1024));
    }
    let (binary, name, _, _) = scale(bytes);
    format!("{}{name}", hundredths(bytes, binary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_sentences() {
        assert_eq!(human(0), "0.0 MiB");
        assert_eq!(human((1 << 30) - 1), "1023.9 MiB");
        assert_eq!(human(1 << 30), "1.0 GiB");
        assert_eq!(human(3 << 39), "1.5 TiB");
    }

    #[test]
    fn sizes_are_read_as_mdadm_reads_them() {
        assert_eq!(parse_sectors("64"), Some(128));
        assert_eq!(parse_sectors("64K"), Some(128));
        assert_eq!(parse_sectors("64k"), Some(128));
        assert_eq!(parse_sectors("1M"), Some(2048));
        assert_eq!(parse_sectors("2G"), Some(4 << 20));
        assert_eq!(parse_sectors("1T"), Some(2 << 30));
        assert_eq!(parse_sectors("24s"), Some(24));
        assert_eq!(parse_sectors("0"), Some(0));
        for bad in [
            "",
            "K",
            "s",
            "-1",
            "+1",
            "1.5G",
            "64KB",
            "x",
            " 1",
            "36028797018963968T",
            "99999999999999999999",
        ] {
            assert_eq!(parse_sectors(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_printed_as_mdadm_prints_them() {
        // Seen in the output of mdadm 4.2.
        assert_eq!(human_tail(4096 * 512), "");
        assert_eq!(human_tail(129_024 * 512), " (63.00 MiB 66.06 MB)");
        assert_eq!(human_tail(131_048 * 512), " (63.99 MiB 67.10 MB)");
        assert_eq!(human_tail(131_008 * 1024), " (127.94 MiB 134.15 MB)");
        assert_eq!(human_tail(4_194_302 * 512), " (2048.00 MiB 2147.48 MB)");
        assert_eq!(human_tail(4_194_304 * 512), " (2.00 GiB 2.15 GB)");
        assert_eq!(human_tail(41_678_848 * 1024), " (39.75 GiB 42.68 GB)");
        assert_eq!(human_tail(8_589_670_400 * 1024), " (8.00 TiB 8.80 TB)");
        assert_eq!(human_brief_decimal(129_024 * 1024), "132.12MB");
        assert_eq!(human_brief_decimal(8_589_670_400 * 1024), "8.80TB");
        assert_eq!(human_brief_decimal(2048 * 1024), "");
        assert_eq!(human_brief(129_024 * 1024), "126.00MiB");
        assert_eq!(human_brief(2048 * 1024), "2048.00KiB");
    }
}
