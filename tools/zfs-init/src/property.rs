//! Which values of a ZFS property are the same, and how a property behaves (zfsprops(7)).

/// The user property that marks a pool as made for a site.
pub(crate) const TAG: &str = "dev.hearth:site";

/// Tells whether a value as the inventory writes it is what `zfs get -p` prints: sizes are printed in bytes there, and no
/// limit as 0.
pub(crate) fn same(wanted: &str, printed: &str) -> bool {
    wanted == printed
        || (wanted == "none" && printed == "0")
        || bytes(wanted).is_some_and(|bytes| printed.parse() == Ok(bytes))
}

/// Reads a size as ZFS does: `10G`, `128K`, `1.5T`, `512`, an `iB` or `B` behind it allowed.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_uppercase();
    let text = text.strip_suffix("IB").or_else(|| text.strip_suffix('B')).unwrap_or(&text);
    let shift = match text.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        'P' => 50,
        _ => return text.parse().ok(),
    };
    let number = &text[..text.len() - 1];
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let tenths = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(whole + fraction.parse::<u64>().ok()?.checked_mul(1 << shift)? / tenths)
}

/// Tells whether datasets below have the property too where they set nothing themselves. A mount point is inherited with
/// the dataset's name behind it, so its value differs.
pub(crate) fn is_inherited(name: &str) -> bool {
    let own =
        ["quota", "reservation", "refquota", "refreservation", "canmount", "mountpoint", "volsize", "volblocksize"];
    !own.contains(&name) && !is_fixed(name)
}

/// Tells whether the property can't be changed after the dataset's creation.
pub(crate) fn is_fixed(name: &str) -> bool {
    ["casesensitivity", "normalization", "utf8only", "encryption", "keyformat", "pbkdf2iters", "volblocksize"]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_the_same_as_its_bytes() {
        for (wanted, printed) in
            [("128K", "131072"), ("10G", "10737418240"), ("1.5T", "1649267441664"), ("1M", "1048576"), ("512", "512")]
        {
            assert!(same(wanted, printed), "{wanted}");
        }
        assert!(same("none", "0") && same("lz4", "lz4") && same("10GiB", "10737418240"));
        assert!(!same("lz4", "zstd") && !same("10G", "10") && !same("off", "0"));
    }

    #[test]
    fn limits_are_a_datasets_own() {
        assert!(is_inherited("compression") && is_inherited("recordsize"));
        assert!(!is_inherited("quota") && !is_inherited("mountpoint") && !is_inherited("encryption"));
    }
}
