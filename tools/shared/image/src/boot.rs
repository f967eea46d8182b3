//! The first sectors of a disk that boots by itself under a BIOS.

use crate::{Error, Result};

/// Where the only partition begins, in bytes; the loader's core lies in the gap before it.
pub const PARTITION_START: u64 = 1 << 20;

const SECTOR: usize = 512;
/// Where the partition table lies in sector 0, and how much before it is the loader's.
const TABLE: usize = 446;
const CODE: usize = 440;

/// Lays out sector 0 and the gap: GRUB's `boot.img`, whose built-in default is to read the core from sector 1; one
/// partition to the disk's end; GRUB's `core.img` from sector 1 on, whose own block list begins at sector 2 by default.
/// `disk_id` tells the disk apart for the kernel.
///
/// # Errors
/// [`Error::Build`] if a part does not fit or the disk is too large for this kind of table.
pub fn lay_out(image: &str, boot: &[u8], core: &[u8], disk_size: u64, disk_id: u32) -> Result<Vec<u8>> {
    let wrong = |message: &str| Error::Build { image: image.to_owned(), message: message.to_owned() };
    if boot.len() != SECTOR {
        return Err(wrong("GRUB's boot.img is not one sector long"));
    }
    let gap = usize::try_from(PARTITION_START).map_err(|_| wrong("the gap is too large"))?;
    if core.len() > gap - SECTOR {
        return Err(wrong("GRUB's core.img does not fit before the partition"));
    }
    let sectors = disk_size.checked_sub(PARTITION_START).map(|size| size / SECTOR as u64);
    let sectors = sectors.and_then(|sectors| u32::try_from(sectors).ok()).filter(|sectors| *sectors > 0);
    let sectors = sectors.ok_or_else(|| wrong("the disk's size can't be written into its partition table"))?;
    let first = u32::try_from(PARTITION_START / SECTOR as u64).map_err(|_| wrong("the gap is too large"))?;

    let mut bytes = vec![0; SECTOR + core.len()];
    bytes[..CODE].copy_from_slice(&boot[..CODE]);
    bytes[CODE..CODE + 4].copy_from_slice(&disk_id.to_le_bytes());
    let entry = &mut bytes[TABLE..TABLE + 16];
    entry[0] = 0x80; // active: some BIOSes boot nothing else
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]); // cylinder, head, sector: "use the numbers below"
    entry[4] = 0x83; // Linux
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&first.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[SECTOR..].copy_from_slice(core);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sector_0_holds_loader_table_and_mark_and_the_core_follows() {
        let (boot, core) = (vec![0xb0; 512], vec![0xc0; 1000]);
        let bytes = lay_out("x", &boot, &core, 2 << 30, 0x1234_5678).unwrap();
        assert_eq!(bytes.len(), 512 + 1000);
        assert!(bytes[..440].iter().all(|byte| *byte == 0xb0));
        assert_eq!(bytes[440..444], [0x78, 0x56, 0x34, 0x12]);
        assert_eq!(bytes[446..462], [0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 0xf8, 0x3f, 0]);
        assert!(bytes[462..510].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[510..512], [0x55, 0xaa]);
        assert!(bytes[512..].iter().all(|byte| *byte == 0xc0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused =
            |boot: usize, core: usize, disk: u64| lay_out("x", &vec![0; boot], &vec![0; core], disk, 0).is_err();
        assert!(refused(511, 10, 2 << 30));
        assert!(refused(512, 1 << 20, 2 << 30));
        assert!(refused(512, 10, 1 << 20));
        assert!(refused(512, 10, 4 << 40));
        assert!(!refused(512, (1 << 20) - 512, 2 << 30));
    }
}
