//! Owns recognising what already lies on a disk, so that `create` does not overwrite it unasked.
//! Looks for magic numbers only. Must never write, nor recognise twinblk's own metadata.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes looked at from the start: the first ZFS label, all others lie before its end.
const HEAD_BYTES: u64 = 256 << 10;

/// Bytes looked at before the end: two ZFS labels, which may begin 256 KiB early.
const TAIL_BYTES: u64 = 1 << 20;

/// Magic numbers at fixed places from the start of the disk.
const FIXED: [(&str, usize, &[u8]); 20] = [
    ("an XFS file system", 0, b"XFSB"),
    ("a Btrfs file system", 0x1_0040, b"_BHRfS_M"),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("an NTFS file system", 3, b"NTFS    "),
    ("a FAT file system", 0x36, b"FAT1"),
    ("a FAT file system", 0x52, b"FAT32   "),
    ("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    ("an ISO 9660 file system", 0x8001, b"CD001"),
    ("a squashfs file system", 0, b"hsqs"),
    ("swap space", 4096 - 10, b"SWAPSPACE2"),
    ("swap space", 16_384 - 10, b"SWAPSPACE2"),
    ("swap space", 65_536 - 10, b"SWAPSPACE2"),
    ("a LUKS encrypted volume", 0, b"LUKS\xba\xbe"),
    ("a LUKS encrypted volume", 0x4000, b"SKUL\xba\xbe"),
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("a qcow2 disk image", 0, b"QFI\xfb"),
    ("a VMDK disk image", 0, b"KDMV"),
    ("a Ceph OSD", 0, b"bluestore block device"),
    ("a bcache device", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
];

/// `MD_SB_MAGIC` of Linux RAID.
const MD_MAGIC: u32 = 0xa92b_4efc;

/// Superblock magics of DRBD 8 (clean, unclean) and 9, big-endian, 60 bytes into their block.
const DRBD_MAGICS: [u32; 3] = [0x8374_026b, 0x8374_026c, 0x8374_026d];
const DRBD_MAGIC_OFFSET: u64 = 60;

/// Start of a ZFS uberblock.
const ZFS_MAGIC: u64 = 0x00ba_b10c;
const ZFS_LABEL_BYTES: u64 = 256 << 10;

/// Says what a file or device already holds, such as "an ext4 file system", or nothing if it
/// looks unused. Takes no lock and changes nothing.
///
/// # Errors
/// If it cannot be read.
pub fn probe_content(path: &Path) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let image = Image::read(&file)?;
    let mut found: Vec<&str> = Vec::new();
    found.extend(ext(&image));
    found.extend(FIXED.iter().filter(|(_, at, magic)| image.is_at(*at as u64, magic)).map(name));
    found.extend(lvm(&image));
    found.extend(md(&image));
    found.extend(zfs(&image));
    found.extend(drbd(&image));
    found.extend(backup_gpt(&image));
    // Boot sectors of file systems and of a GPT carry the mark of an MBR too.
    if found.is_empty() {
        found.extend(mbr(&image));
    }
    found.dedup();
    Ok((!found.is_empty()).then(|| found.join(" and ")))
}

fn name<'a>(entry: &(&'a str, usize, &[u8])) -> &'a str {
    entry.0
}

/// Both ends of a disk.
struct Image {
    size_bytes: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Image {
    fn read(file: &File) -> io::Result<Self> {
        let size_bytes = io::Seek::seek(&mut &*file, io::SeekFrom::End(0))?;
        let part = |start: u64, length: u64| {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, start)?;
            Ok::<_, io::Error>(bytes)
        };
        let tail_bytes = size_bytes.min(TAIL_BYTES);
        Ok(Self {
            size_bytes,
            head: part(0, size_bytes.min(HEAD_BYTES))?,
            tail: part(size_bytes - tail_bytes, tail_bytes)?,
        })
    }

    /// Bytes from an offset of the disk, if they lie in the parts read.
    fn get(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let tail_start = self.size_bytes - self.tail.len() as u64;
        let within = |bytes: &'_ [u8], start: u64| {
            let at = usize::try_from(offset.checked_sub(start)?).ok()?;
            bytes.get(at..at.checked_add(length)?).map(|_| at)
        };
        if let Some(at) = within(&self.head, 0) {
            return Some(&self.head[at..at + length]);
        }
        let at = within(&self.tail, tail_start)?;
        Some(&self.tail[at..at + length])
    }

    fn is_at(&self, offset: u64, magic: &[u8]) -> bool {
        self.get(offset, magic.len()) == Some(magic)
    }

    fn number(&self, offset: u64) -> Option<u32> {
        let bytes = self.get(offset, 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    }
}

/// The ext family: one magic, told apart by their features.
fn ext(image: &Image) -> Option<&'static str> {
    const COMPATIBLE_JOURNAL: u32 = 0x4;
    const INCOMPATIBLE_EXTENTS: u32 = 0x40;
    if !image.is_at(0x438, b"\x53\xef") {
        return None;
    }
    let (compatible, incompatible) = (image.number(0x45c)?, image.number(0x460)?);
    Some(if incompatible & INCOMPATIBLE_EXTENTS != 0 {
        "an ext4 file system"
    } else if compatible & COMPATIBLE_JOURNAL != 0 {
        "an ext3 file system"
    } else {
        "an ext2 file system"
    })
}

/// An LVM label lies in one of the first four sectors.
fn lvm(image: &Image) -> Option<&'static str> {
    let labelled = |sector: u64| {
        image.is_at(sector * 512, b"LABELONE") && image.is_at(sector * 512 + 24, b"LVM2 001")
    };
    (0..4).any(labelled).then_some("an LVM physical volume")
}

/// Linux RAID: 0.90 and 1.0 near the end, 1.1 at the start, 1.2 at 4 KiB.
fn md(image: &Image) -> Option<&'static str> {
    let old = (image.size_bytes & !0xffff).checked_sub(0x1_0000);
    let at_end = image.size_bytes.checked_sub(8192).map(|at| at & !0xfff);
    let places = [old, at_end, Some(0), Some(4096)].into_iter().flatten();
    let mut numbers = places.filter_map(|place| image.number(place));
    // 0.90 is written in the byte order of its host.
    let marked = numbers.any(|number| number == MD_MAGIC || number.swap_bytes() == MD_MAGIC);
    marked.then_some("a member of a Linux RAID array")
}

/// ZFS: four labels, the second half of each an array of uberblocks, 1 KiB or more each, in the
/// byte order of their host.
fn zfs(image: &Image) -> Option<&'static str> {
    let end = image.size_bytes - image.size_bytes % ZFS_LABEL_BYTES;
    let last = |back: u64| end.checked_sub(back * ZFS_LABEL_BYTES);
    let labels = [Some(0), last(2), last(1)].into_iter().flatten();
    let magics = [ZFS_MAGIC.to_le_bytes(), ZFS_MAGIC.to_be_bytes()];
    let marked = |label: u64| {
        (128..256).any(|kib| {
            let found = image.get(label + (kib << 10), 8);
            found.is_some_and(|found| magics.iter().any(|magic| magic == found))
        })
    };
    labels.into_iter().any(marked).then_some("a ZFS pool member")
}

/// DRBD: in the last whole block, or the first of an external metadata device.
fn drbd(image: &Image) -> Option<&'static str> {
    let last = (image.size_bytes & !0xfff).checked_sub(4096);
    let mut places = [last, Some(0)].into_iter().flatten();
    let marked = places.any(|place| {
        let number = image.number(place + DRBD_MAGIC_OFFSET).map(u32::swap_bytes);
        number.is_some_and(|number| DRBD_MAGICS.contains(&number))
    });
    marked.then_some("DRBD metadata")
}

/// The second copy of a GPT lies in the last sector, of either size.
fn backup_gpt(image: &Image) -> Option<&'static str> {
    let marked = [512, 4096].into_iter().any(|sector| {
        let place = image.size_bytes.checked_sub(sector);
        place.is_some_and(|place| image.is_at(place, b"EFI PART"))
    });
    marked.then_some("a GPT partition table")
}

/// An MBR counts only if an entry looks like a partition.
fn mbr(image: &Image) -> Option<&'static str> {
    if !image.is_at(510, b"\x55\xaa") {
        return None;
    }
    let entry = |index: u64| image.get(446 + index * 16, 16);
    let entries: Option<Vec<_>> = (0..4).map(entry).collect();
    let entries = entries?;
    let sane = entries.iter().all(|entry| entry[0] & 0x7f == 0);
    let used = entries.iter().any(|entry| entry[4] != 0 && entry[12..16] != [0; 4]);
    (sane && used).then_some("an MBR partition table")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is recognised on a disk of `size_bytes` that holds `bytes` at `offset`.
    fn probe(size_bytes: u64, parts: &[(u64, &[u8])]) -> Option<String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(size_bytes).expect("space");
        for (offset, bytes) in parts {
            file.as_file().write_all_at(bytes, *offset).expect("written");
        }
        probe_content(file.path()).expect("readable")
    }

    const SIZE: u64 = (8 << 20) + 12_288;

    #[test]
    fn an_unused_disk_of_any_size_holds_nothing() {
        for size in [0, 1, 511, 4096, 65_536, 1 << 20, SIZE] {
            assert_eq!(probe(size, &[]), None, "{size} bytes");
        }
        let mark_alone: &[u8] = b"\x55\xaa";
        assert_eq!(probe(SIZE, &[(510, mark_alone)]), None);
    }

    #[test]
    fn each_magic_at_a_fixed_place_is_known() {
        for (name, offset, magic) in FIXED {
            assert_eq!(probe(SIZE, &[(offset as u64, magic)]).as_deref(), Some(name));
            let moved = probe(SIZE, &[(offset as u64 + 1, magic)]);
            assert_eq!(moved, None, "{name} one byte further is something else");
        }
    }

    #[test]
    fn the_ext_family_is_told_apart() {
        let magic: (u64, &[u8]) = (0x438, b"\x53\xef");
        let journal: (u64, &[u8]) = (0x45c, b"\x04");
        let extents: (u64, &[u8]) = (0x460, b"\x40");
        let found = |parts: &[_]| probe(SIZE, parts).unwrap_or_default();
        assert_eq!(found(&[magic]), "an ext2 file system");
        assert_eq!(found(&[magic, journal]), "an ext3 file system");
        assert_eq!(found(&[magic, journal, extents]), "an ext4 file system");
    }

    #[test]
    fn metadata_at_the_end_is_known() {
        let md = MD_MAGIC.to_le_bytes();
        let md_foreign = MD_MAGIC.to_be_bytes();
        let zfs = ZFS_MAGIC.to_le_bytes();
        let drbd = DRBD_MAGICS.map(u32::to_be_bytes);
        let end = SIZE - SIZE % ZFS_LABEL_BYTES;
        let raid = "a member of a Linux RAID array";
        let cases: [(u64, &[u8], &str); 13] = [
            ((SIZE & !0xffff) - 0x1_0000, &md, raid),
            ((SIZE & !0xffff) - 0x1_0000, &md_foreign, raid),
            (SIZE - 8192, &md, raid),
            (0, &md, raid),
            (4096, &md, raid),
            ((128 << 10) + 4096, &zfs, "a ZFS pool member"),
            (end - (384 << 10), &zfs, "a ZFS pool member"),
            (end - (128 << 10), &zfs, "a ZFS pool member"),
            (SIZE - 4096 + 60, &drbd[0], "DRBD metadata"),
            (SIZE - 4096 + 60, &drbd[2], "DRBD metadata"),
            (60, &drbd[1], "DRBD metadata"),
            (SIZE - 512, b"EFI PART", "a GPT partition table"),
            (SIZE - 4096, b"EFI PART", "a GPT partition table"),
        ];
        for (offset, bytes, name) in cases {
            assert_eq!(probe(SIZE, &[(offset, bytes)]).as_deref(), Some(name), "at {offset}");
        }
    }

    #[test]
    fn several_finds_are_all_told() {
        let label: &[u8] = b"LABELONE";
        let kind: &[u8] = b"LVM2 001";
        let drbd: &[u8] = &DRBD_MAGICS[1].to_be_bytes();
        let parts = [(512, label), (536, kind), (SIZE - 4036, drbd)];
        let expected = "an LVM physical volume and DRBD metadata";
        assert_eq!(probe(SIZE, &parts).as_deref(), Some(expected));
    }

    #[test]
    fn partitions_count_only_if_there_are_any() {
        let mark: (u64, &[u8]) = (510, b"\x55\xaa");
        let entry: (u64, &[u8]) = (446, b"\x80\0\0\0\x83\0\0\0\0\x08\0\0\0\0\x10\0");
        let insane: (u64, &[u8]) = (446 + 16, b"\x17");
        assert_eq!(probe(SIZE, &[mark, entry]).as_deref(), Some("an MBR partition table"));
        assert_eq!(probe(SIZE, &[entry]), None);
        assert_eq!(probe(SIZE, &[mark, entry, insane]), None);
        let fat: (u64, &[u8]) = (0x52, b"FAT32   ");
        assert_eq!(probe(SIZE, &[mark, entry, fat]).as_deref(), Some("a FAT file system"));
    }
}
