//! Random identifiers, and the clock.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns random bytes from the kernel.
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut out = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut out)?;
    Ok(out)
}

/// Returns random hexadecimal digits, two a byte.
pub(crate) fn hex<const N: usize>() -> io::Result<String> {
    Ok(bytes::<N>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns a random UUID, version 4.
pub(crate) fn uuid() -> io::Result<String> {
    let mut raw = bytes::<16>()?;
    raw[6] = raw[6] & 0x0f | 0x40;
    raw[8] = raw[8] & 0x3f | 0x80;
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Returns a random MAC address with Proxmox's prefix.
pub(crate) fn mac() -> io::Result<String> {
    let [a, b, c] = bytes::<3>()?;
    Ok(format!("BC:24:11:{a:02X}:{b:02X}:{c:02X}"))
}

/// Returns the seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
