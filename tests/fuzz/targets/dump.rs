//! What `meta restore` reads: a dump of metadata that somebody may have written or changed.

use std::fs::File;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;
use twinblk::store::dump::{self as dumped, RestoreError};
use twinblk::store::{RawFile, StoppedDisk};

/// The device: three bitmap pages, the last one partial.
const DEVICE_BLOCKS: u64 = 65_100;

/// Of a block.
const BLOCK_BYTES: u64 = 4096;

/// A disk in memory on which nothing has been laid out; the metadata is a file of its own.
fn disk() -> StoppedDisk {
    let file = |length| {
        let file = memfd_create(c"disk", MFdFlags::empty()).expect("memory");
        let file = File::from(file);
        file.set_len(length).expect("it is sparse");
        RawFile::new(file, "/dev/disk").expect("it has a length")
    };
    StoppedDisk { data: file(DEVICE_BLOCKS * BLOCK_BYTES), metadata: Some(file(0)) }
}

/// What is refused is refused in words, before anything is changed. What is accepted can be dumped
/// again, means the same then, and so does what is restored from that.
pub(super) fn metadata_dump(bytes: &[u8]) {
    let Ok(given) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let mut first = disk();
    match dumped::restore(&mut first, &given) {
        Ok(()) => {}
        Err(RestoreError::Raw(error)) => panic!("a disk in memory failed: {error}"),
        Err(refused) => {
            assert!(!refused.to_string().is_empty());
            assert_eq!(first.metadata_file().length(), 0, "changed by what was refused");
            return;
        }
    }
    // Nothing is wrong with it but a log that was unreadable before: never clean by a detour.
    let faults = dumped::check(&first);
    assert_eq!(faults.len(), usize::from(given["log"]["unreadable"] == true), "{faults:?}");
    let again = dumped::dump(&first).expect("it was accepted");
    if same_form(&given, &again) {
        assert_eq!(meaning(&again), meaning(&given));
    }
    let mut second = disk();
    dumped::restore(&mut second, &again).expect("our own");
    let third = dumped::dump(&second).expect("it was accepted");
    assert_eq!(meaning(&third), meaning(&again));
}

/// Whether fields have their names in both: a list of their values in order is taken, too.
fn same_form(given: &Value, again: &Value) -> bool {
    match again {
        Value::Object(fields) => {
            let mut fields = fields.iter();
            given.is_object() && fields.all(|(name, value)| same_form(&given[name], value))
        }
        Value::Array(values) => {
            let mut values = values.iter().enumerate();
            values.all(|(at, value)| same_form(&given[at], value))
        }
        _ => true,
    }
}

/// What a dump says, without what is only for people or must grow, in one spelling.
fn meaning(dump: &Value) -> Value {
    let mut dump = dump.clone();
    for bitmap in dump["bitmaps"].as_array_mut().expect("it was accepted") {
        *bitmap = marks(bitmap).into();
    }
    let unreadable = dump["log"]["unreadable"] == true;
    let hot = dump["log"]["hot"].as_array_mut().expect("it was accepted");
    if unreadable {
        hot.clear();
    }
    hot.sort_by_key(|pair| pair[0].as_u64());
    if dump["parted"].is_null() {
        dump["parted"] = false.into();
    }
    if dump["current"].is_null() {
        dump["current"] = dump["epoch"].clone();
    }
    for ignored in ["version", "notes"] {
        dump[ignored] = Value::Null;
    }
    dump["log"]["next_transaction"] = Value::Null;
    spell(&mut dump);
    dump
}

/// The blocks marked in a bitmap, as runs that neither touch nor overlap.
fn marks(bitmap: &Value) -> Vec<Value> {
    let mut marked = vec![false; usize::try_from(DEVICE_BLOCKS).expect("small")];
    for run in bitmap["runs"].as_array().expect("it was accepted") {
        let [start, count] = [0, 1].map(|at| run[at].as_u64().expect("it was accepted"));
        let place = |block: u64| usize::try_from(block).expect("in the device");
        marked[place(start)..place(start + count)].fill(true);
    }
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for block in (0..marked.len()).filter(|block| marked[*block]) {
        match runs.last_mut() {
            Some((start, count)) if *start + *count == block => *count += 1,
            _ => runs.push((block, 1)),
        }
    }
    runs.into_iter().map(|(start, count)| serde_json::json!([start, count])).collect()
}

/// Numbers in hexadecimal without what their reader does not look at.
fn spell(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Ok(number) = u128::from_str_radix(text, 16) {
                *text = format!("{number:x}");
            }
        }
        Value::Array(values) => values.iter_mut().for_each(spell),
        Value::Object(fields) => fields.values_mut().for_each(spell),
        _ => {}
    }
}
