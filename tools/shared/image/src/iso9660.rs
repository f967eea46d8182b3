//! A small ISO 9660 writer for cloud-init seeds: one flat folder of files, the same bytes every time.
//!
//! In: a volume id and files by name. Out: the image's bytes. Real names are in the Joliet tree, which Linux, the BSDs
//! and Windows prefer; the primary tree has upper-case stand-ins. Layouts and field offsets are ECMA-119's (sections 8
//! and 9), the second tree's are Joliet's. No clock is read: every time is 1980-01-01.

use std::collections::BTreeSet;

const SECTOR: usize = 2048;
/// Descriptors stand in sectors 16 to 18, the four path tables in 19 to 22, the two folders follow.
const PATH_TABLES: usize = 19;
const FOLDERS: usize = 23;
const RECORD_TIME: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
const VOLUME_TIME: &[u8; 17] = b"1980010100000000\0";

/// Returns an image with these files in its root folder. The volume id is cut at 16 characters, names at 64.
///
/// # Panics
/// When the image would be over 4 GiB, which its 32-bit fields can't say, or a name is empty, `.`, `..` or has a slash.
pub fn write(volume_id: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    for (name, _) in files {
        assert!(!["", ".", ".."].contains(name) && !name.contains('/'), "`{name}` is no file name");
    }
    let plain = plain_names(files);
    let wide: Vec<Vec<u8>> = files.iter().map(|(name, _)| utf16(name, 64)).collect();
    let sizes = [folder_sectors(&plain), folder_sectors(&wide)];
    let data = FOLDERS + sizes[0] + sizes[1];
    let mut at = data;
    let mut extents = Vec::new();
    for (_, bytes) in files {
        extents.push((at, bytes.len()));
        at += sectors(bytes.len());
    }

    let mut image = vec![0; 16 * SECTOR];
    let trees = [(FOLDERS, sizes[0], PATH_TABLES), (FOLDERS + sizes[0], sizes[1], PATH_TABLES + 2)];
    image.extend(descriptor(1, &plain_text(volume_id, 32), at, trees[0]));
    image.extend(descriptor(2, &padded_utf16(volume_id, 32), at, trees[1]));
    image.extend(terminator());
    for (folder, _, _) in trees {
        image.extend(path_table(long(folder).to_le_bytes(), 1_u16.to_le_bytes()));
        image.extend(path_table(long(folder).to_be_bytes(), 1_u16.to_be_bytes()));
    }
    for ((folder, length, _), names) in trees.into_iter().zip([&plain, &wide]) {
        image.extend(root_folder(folder, length, names, &extents));
    }
    for (_, bytes) in files {
        image.extend_from_slice(bytes);
        image.resize(image.len().next_multiple_of(SECTOR), 0);
    }
    image
}

fn sectors(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR)
}

fn long(value: usize) -> u32 {
    assert!(u32::try_from(value).is_ok(), "an ISO 9660 field of {value} is over 4 GiB");
    u32::try_from(value).unwrap_or_default()
}

fn byte(value: usize) -> u8 {
    assert!(u8::try_from(value).is_ok(), "an ISO 9660 record of {value} bytes is too long");
    u8::try_from(value).unwrap_or_default()
}

/// A number in both byte orders, as ECMA-119's section 7.3.3 has it.
fn both(value: usize) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&long(value).to_le_bytes());
    out[4..].copy_from_slice(&long(value).to_be_bytes());
    out
}

fn both_short(value: u16) -> [u8; 4] {
    let [a, b] = value.to_le_bytes();
    [a, b, b, a]
}

/// Upper-case names of letters, digits and `_`, at most 27 characters and unique, with the version `;1`.
fn plain_names(files: &[(&str, &[u8])]) -> Vec<Vec<u8>> {
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for (name, _) in files {
        let mut base = String::new();
        for c in name.chars().take(27) {
            let c = c.to_ascii_uppercase();
            let dot = c == '.' && !base.contains('.') && !base.is_empty();
            base.push(if c.is_ascii_uppercase() || c.is_ascii_digit() || dot { c } else { '_' });
        }
        if !base.contains('.') {
            base.push('.');
        }
        let mut unique = base.clone();
        let mut number = 1;
        while !seen.insert(unique.clone()) {
            unique = format!("{}{number:02}", &base[..base.len().min(26)]);
            number += 1;
        }
        names.push(format!("{unique};1").into_bytes());
    }
    names
}

fn plain_text(text: &str, length: usize) -> Vec<u8> {
    let mut out: Vec<u8> = text.bytes().take(16).collect();
    out.resize(length, b' ');
    out
}

fn utf16(text: &str, most: usize) -> Vec<u8> {
    text.encode_utf16().take(most).flat_map(u16::to_be_bytes).collect()
}

fn padded_utf16(text: &str, length: usize) -> Vec<u8> {
    let mut out = utf16(text, length / 2);
    while out.len() < length {
        out.extend(u16::from(b' ').to_be_bytes());
    }
    out
}

/// A directory record (section 9.1): its length is even, and a record never crosses a sector.
fn record(extent: usize, size: usize, folder: bool, name: &[u8]) -> Vec<u8> {
    let length = (33 + name.len()).next_multiple_of(2);
    let mut out = vec![byte(length), 0];
    out.extend(both(extent));
    out.extend(both(size));
    out.extend(RECORD_TIME);
    out.extend([if folder { 2 } else { 0 }, 0, 0]);
    out.extend(both_short(1));
    out.push(byte(name.len()));
    out.extend_from_slice(name);
    out.resize(length, 0);
    out
}

fn push_record(out: &mut Vec<u8>, record: &[u8]) {
    if out.len() % SECTOR + record.len() > SECTOR {
        out.resize(out.len().next_multiple_of(SECTOR), 0);
    }
    out.extend_from_slice(record);
}

fn folder_sectors(names: &[Vec<u8>]) -> usize {
    sectors(root_folder(0, 0, names, &vec![(0, 0); names.len()]).len())
}

fn root_folder(at: usize, length: usize, names: &[Vec<u8>], extents: &[(usize, usize)]) -> Vec<u8> {
    let mut out = Vec::new();
    for own in [[0], [1]] {
        push_record(&mut out, &record(at, length * SECTOR, true, &own));
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|a, b| names[*a].cmp(&names[*b]));
    for index in order {
        let (extent, size) = extents[index];
        push_record(&mut out, &record(extent, size, false, &names[index]));
    }
    out.resize(out.len().next_multiple_of(SECTOR), 0);
    out
}

fn path_table(folder: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    let mut out = vec![1, 0];
    out.extend(folder);
    out.extend(parent);
    out.extend([0, 0]);
    out.resize(SECTOR, 0);
    out
}

/// A primary (1) or supplementary (2, Joliet) volume descriptor: sections 8.4 and 8.5.
fn descriptor(kind: u8, volume_id: &[u8], total: usize, tree: (usize, usize, usize)) -> Vec<u8> {
    let (folder, length, tables) = tree;
    let mut out = vec![kind];
    out.extend(b"CD001\x01\0");
    out.extend(blank(kind, 32));
    out.extend(volume_id);
    out.extend([0; 8]);
    out.extend(both(total));
    let mut escapes = [0; 32];
    if kind == 2 {
        escapes[..3].copy_from_slice(b"%/E");
    }
    out.extend(escapes);
    out.extend([both_short(1), both_short(1), both_short(2048)].concat());
    out.extend(both(10));
    out.extend(long(tables).to_le_bytes());
    out.extend([0; 4]);
    out.extend(long(tables + 1).to_be_bytes());
    out.extend([0; 4]);
    out.extend(record(folder, length * SECTOR, true, &[0]));
    for text in [128, 128, 128, 128, 37, 37, 37] {
        out.extend(blank(kind, text));
    }
    out.extend(VOLUME_TIME);
    out.extend(VOLUME_TIME);
    out.extend(b"0000000000000000\0");
    out.extend(VOLUME_TIME);
    out.push(1);
    out.resize(SECTOR, 0);
    out
}

fn blank(kind: u8, length: usize) -> Vec<u8> {
    if kind == 1 {
        return vec![b' '; length];
    }
    let mut out = padded_utf16("", length - length % 2);
    out.resize(length, 0);
    out
}

fn terminator() -> Vec<u8> {
    let mut out = b"\xffCD001\x01".to_vec();
    out.resize(SECTOR, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the tree of one descriptor back, by the offsets of ECMA-119.
    fn read(image: &[u8], sector: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let le = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        let root = sector * SECTOR + 156;
        let (mut at, end) = (le(root + 2) * SECTOR, le(root + 2) * SECTOR + le(root + 10));
        let mut files = Vec::new();
        while at < end {
            let length = usize::from(image[at]);
            if length == 0 {
                at = (at + 1).next_multiple_of(SECTOR);
                continue;
            }
            let name = image[at + 33..at + 33 + usize::from(image[at + 32])].to_vec();
            let (from, size) = (le(at + 2) * SECTOR, le(at + 10));
            if image[at + 25] & 2 == 0 {
                files.push((name, image[from..from + size].to_vec()));
            }
            at += length;
        }
        files
    }

    #[test]
    fn both_trees_have_every_file_sorted_by_name() {
        let image = write("cidata", &[("user-data", b"#cloud-config\n"), ("meta-data", &[7; 5000]), ("empty", b"")]);
        let plain = read(&image, 16);
        assert_eq!(plain[0], (b"EMPTY.;1".to_vec(), Vec::new()));
        assert_eq!(plain[1], (b"META_DATA.;1".to_vec(), vec![7; 5000]));
        assert_eq!(plain[2], (b"USER_DATA.;1".to_vec(), b"#cloud-config\n".to_vec()));
        let wide: Vec<_> = read(&image, 17).into_iter().map(|(name, _)| name).collect();
        assert_eq!(wide, [utf16("empty", 64), utf16("meta-data", 64), utf16("user-data", 64)]);
    }

    #[test]
    fn the_descriptors_are_where_readers_look() {
        let image = write("cidata", &[("user-data", b"x")]);
        assert_eq!(&image[16 * SECTOR..16 * SECTOR + 7], b"\x01CD001\x01");
        assert_eq!(&image[16 * SECTOR + 40..16 * SECTOR + 47], b"cidata ");
        assert_eq!(&image[17 * SECTOR..17 * SECTOR + 7], b"\x02CD001\x01");
        assert_eq!(&image[17 * SECTOR + 88..17 * SECTOR + 91], b"%/E");
        assert_eq!(&image[18 * SECTOR..18 * SECTOR + 7], b"\xffCD001\x01");
        let total = u32::from_le_bytes(image[16 * SECTOR + 80..16 * SECTOR + 84].try_into().unwrap());
        assert_eq!(total as usize * SECTOR, image.len());
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_similar_names_stay_apart() {
        let files: [(&str, &[u8]); 3] = [("a-b", b"1"), ("a_b", b"2"), ("A.B", b"3")];
        assert_eq!(write("cidata", &files), write("cidata", &files));
        let names: BTreeSet<_> = read(&write("v", &files), 16).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_folder_may_need_more_than_one_sector() {
        let names: Vec<String> = (0..200).map(|n| format!("file-number-{n}.yaml")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
        let image = write("many", &files);
        assert_eq!(read(&image, 16).len(), 200);
        assert!(read(&image, 17).iter().all(|(name, bytes)| *name == utf16(&String::from_utf8_lossy(bytes), 64)));
    }

    #[test]
    #[should_panic(expected = "`a/b` is no file name")]
    fn a_path_is_no_name() {
        write("v", &[("a/b", b"")]);
    }
}
