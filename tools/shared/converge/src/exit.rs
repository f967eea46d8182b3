//! The exit codes of every tool. Where there is one, the number is that of sysexits.h(3head).

/// All went well; for `plan`: there is nothing to change.
pub const OK: u8 = 0;
/// Something failed, or was stopped at a safe point by Ctrl-C or SIGTERM.
pub const FAILED: u8 = 1;
/// `plan` found changes.
pub const CHANGES_PENDING: u8 = 2;
/// The command line is wrong (EX_USAGE).
pub const USAGE: u8 = 64;
/// A host or an API can't be reached (EX_UNAVAILABLE).
pub const UNREACHABLE: u8 = 69;
/// Another run holds the lock (EX_TEMPFAIL).
pub const LOCKED: u8 = 75;
/// Refused for safety: a disk in use, a changed host key, a moved reality, data loss without consent (EX_NOPERM).
pub const REFUSED: u8 = 77;
/// The inventory, a manifest or an image file is wrong (EX_CONFIG).
pub const CONFIG: u8 = 78;
/// Ended at once by a second Ctrl-C or SIGTERM, wherever it was (128 and the number of SIGINT, as shells have it).
pub const INTERRUPTED: u8 = 130;
