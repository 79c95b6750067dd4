//! Records on disk: whatever is read, no panic; what is accepted survives being written again.
//! Damage is caught by checksums, which no fuzzer guesses, so each record is tried a second time
//! with right ones: as a forger would leave it.

use twinblk::format::bitmap::{self as pages, PageAddress};
use twinblk::format::checksum;
use twinblk::format::extent_log::{self, LogIdentity};
use twinblk::format::superblock::{self as super_record, Geometry};
use twinblk::units::AreaId;

const BLOCK: usize = 4096;
const AREA: AreaId = AreaId(0x0A0B_0C0D_0E0F_1011);
const GEOMETRY: Geometry = Geometry { device_blocks: 100_000, peer_slots: 2, log_extents: 1237 };
const LOG: LogIdentity = LogIdentity { area: AREA, geometry: GEOMETRY };
const PAGE: PageAddress = PageAddress { area: AREA, slot: 1, page: 3 };

/// One block: the input, or zeroes where it ends early.
fn block(bytes: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let given = bytes.len().min(BLOCK);
    block[..given].copy_from_slice(&bytes[..given]);
    block
}

fn mend(block: &mut [u8], at: usize) {
    let sum = checksum::around(block, at).to_le_bytes();
    block[at..at + 4].copy_from_slice(&sum);
}

pub(super) fn superblock(bytes: &[u8]) {
    let _short = super_record::decode(bytes);
    let mut record = block(bytes);
    mend(&mut record, 12);
    if let Ok(read) = super_record::decode(&record) {
        assert_eq!(super_record::decode(&super_record::encode(&read)), Ok(read.clone()));
        assert_eq!(super_record::check(&read), Ok(()));
        // What is allotted by it is bounded by the device it names.
        assert!(read.geometry.fault().is_none());
    }
}

pub(super) fn bitmap(bytes: &[u8]) {
    let _short = pages::decode(PAGE, bytes);
    let mut record = block(bytes);
    mend(&mut record, 12);
    if let Ok(words) = pages::decode(PAGE, &record) {
        let written = pages::encode(PAGE, &words);
        assert_eq!(pages::decode(PAGE, &written), Ok(words));
    }
}

/// Seals the eight sectors of a log block anew; see `manual::disk_format`.
fn seal(record: &mut [u8; BLOCK]) {
    let content: Vec<u8> = record.chunks(512).flat_map(|sector| &sector[..496]).copied().collect();
    let sum = checksum::of(&content).to_le_bytes();
    let number: [u8; 8] = record[24..32].try_into().expect("eight bytes");
    for (index, sector) in (0u8..).zip(record.chunks_mut(512)) {
        sector[496..504].copy_from_slice(&number);
        sector[504..508].copy_from_slice(&sum);
        let area = AREA.0.to_le_bytes();
        let seal = checksum::of_parts(&[&area, &[index], &sector[..508]]).to_le_bytes();
        sector[508..].copy_from_slice(&seal);
    }
}

pub(super) fn activity_log(bytes: &[u8]) {
    let _short = extent_log::decode(LOG, bytes);
    let mut record = block(bytes);
    seal(&mut record);
    if let Ok(read) = extent_log::decode(LOG, &record) {
        let written = extent_log::encode(LOG, &read);
        assert_eq!(extent_log::decode(LOG, &written), Ok(read));
    }
}
