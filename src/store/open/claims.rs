//! Owns finding out who else uses a disk: mounts, swap, device stacks, loop devices, lock holders.
//! Reads `/proc` and `/sys` only. Must never open a disk.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// A use of a disk that excludes ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// What for.
    pub(super) used: String,
    /// How to end it.
    pub(super) remedy: &'static str,
}

/// Who holds a lock.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// This process.
    Ourselves,
    /// A process that runs.
    Running {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// A process that has ended, whose descriptors the kernel still needs.
    Ended {
        /// Its number.
        pid: u32,
    },
}

/// The host, as `/proc` and `/sys` below a root describe it.
pub(super) struct Host {
    root: PathBuf,
}

/// A device number, as `/sys` writes it: `major:minor`.
type Number = String;

/// What two paths of the same disk have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The number of a block device, whichever node names it.
    Device(u64),
    /// File system and inode.
    File(u64, u64),
}

impl Identity {
    pub(super) fn of(found: &Metadata) -> Self {
        if found.file_type().is_block_device() {
            Self::Device(found.rdev())
        } else {
            Self::File(found.dev(), found.ino())
        }
    }

    fn at(path: &str) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }

    /// The number of a device; nothing for a file.
    fn number(self) -> Option<Number> {
        match self {
            Self::Device(device) => Some(number(device)),
            Self::File(..) => None,
        }
    }
}

impl Host {
    /// The one we run on.
    pub(super) fn this() -> Self {
        Self { root: PathBuf::from("/") }
    }

    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether the kernel refuses writes to a device.
    pub(super) fn is_read_only(&self, device: u64) -> bool {
        let directory = self.device_directory(&number(device));
        read(&directory.join("ro")).trim() == "1"
    }

    /// What else uses a file or device, if anything does.
    pub(super) fn claim(&self, disk: Identity) -> Option<Claim> {
        let Some(own) = disk.number() else {
            return self.swap(&[], disk).or_else(|| self.loop_device(disk));
        };
        let family = self.family(&own);
        let numbers: Vec<Number> = family.iter().map(|(number, _)| number.clone()).collect();
        self.mount(&numbers)
            .or_else(|| self.swap(&numbers, disk))
            .or_else(|| family.iter().find_map(|(_, directory)| held(directory)))
            .or_else(|| self.loop_device(disk))
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    fn device_directory(&self, number: &str) -> PathBuf {
        let link = self.path("sys/dev/block").join(number);
        std::fs::canonicalize(&link).unwrap_or(link)
    }

    /// A device, its partitions, and the device it is a partition of, with their directories.
    fn family(&self, own: &str) -> Vec<(Number, PathBuf)> {
        let directory = self.device_directory(own);
        let mut family = vec![(own.to_owned(), directory.clone())];
        let mut add = |directory: PathBuf| {
            let number = read(&directory.join("dev")).trim().to_owned();
            if !number.is_empty() {
                family.push((number, directory));
            }
        };
        if directory.join("partition").exists()
            && let Some(whole) = directory.parent()
        {
            add(whole.to_owned());
        }
        for entry in entries(&directory) {
            if entry.join("partition").exists() {
                add(entry);
            }
        }
        family
    }

    fn mount(&self, numbers: &[Number]) -> Option<Claim> {
        let mounts = read(&self.path("proc/self/mountinfo"));
        let mounted = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let number = fields.nth(2)?;
            let place = unescaped(fields.nth(1)?);
            // File systems over several devices mount under a number of their own.
            let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
            let listed = |number: &str| numbers.iter().any(|own| own == number);
            let by_source = || {
                let source = source.and_then(|source| Identity::at(&unescaped(source)));
                source.and_then(Identity::number).is_some_and(|number| listed(&number))
            };
            (listed(number) || by_source()).then_some(place)
        })?;
        Some(Claim {
            used: format!("mounted on {mounted}"),
            remedy: "unmount it, and take it out of /etc/fstab",
        })
    }

    fn swap(&self, numbers: &[Number], disk: Identity) -> Option<Claim> {
        let swaps = read(&self.path("proc/swaps"));
        let swap = swaps.lines().skip(1).find_map(|line| {
            let path = unescaped(line.split_whitespace().next()?);
            let swap = Identity::at(&path)?;
            let related = swap.number().is_some_and(|number| numbers.contains(&number));
            (swap == disk || related).then_some(path)
        })?;
        Some(Claim {
            used: format!("swap space {swap}"),
            remedy: "take it out with swapoff and /etc/fstab",
        })
    }

    fn loop_device(&self, disk: Identity) -> Option<Claim> {
        entries(&self.path("sys/block")).into_iter().find_map(|directory| {
            let backing = read(&directory.join("loop/backing_file"));
            if Identity::at(backing.trim_end_matches('\n'))? != disk {
                return None;
            }
            let name = directory.file_name()?.to_string_lossy().into_owned();
            Some(Claim {
                used: format!("/dev/{name} is made of it"),
                remedy: "detach that with losetup -d, or name the loop device instead",
            })
        })
    }

    /// Who holds the lock on a file or device node, as far as the kernel tells.
    pub(super) fn lock_holder(&self, found: &Metadata) -> Option<Holder> {
        let place =
            format!("{:02x}:{:02x}:{}", major(found.dev()), minor(found.dev()), found.ino());
        let holder = |locks: &str| -> Option<u32> {
            locks.lines().find_map(|line| {
                // "1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF"; those who wait have an arrow.
                let fields: Vec<_> = line.split_whitespace().collect();
                let [_, "FLOCK", _, _, pid, at, ..] = fields[..] else {
                    return None;
                };
                (at == place).then(|| pid.parse().ok())?
            })
        };
        // The list changes while it is read, and a line may be missing from one reading.
        let pid = (0..3).find_map(|_| holder(&read(&self.path("proc/locks"))))?;
        if pid == std::process::id() {
            return Some(Holder::Ourselves);
        }
        let name = read(&self.path("proc").join(pid.to_string()).join("comm"));
        Some(match name.trim() {
            "" => Holder::Ended { pid },
            name => Holder::Running { pid, name: name.to_owned() },
        })
    }
}

/// Devices built upon this one.
fn held(directory: &Path) -> Option<Claim> {
    let holder = entries(&directory.join("holders")).into_iter().next()?;
    let name = holder.file_name()?.to_string_lossy().into_owned();
    Some(Claim {
        used: format!("/dev/{name} is built upon it"),
        remedy: "stop that volume or array first (lsblk shows it)",
    })
}

fn number(device: u64) -> Number {
    format!("{}:{}", major(device), minor(device))
}

/// What a file of `/proc` or `/sys` says; nothing if it is not there.
fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Paths of all that is in a directory, sorted; nothing if it is not there.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = listed.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Undoes `\040` and its like, by which `/proc` writes blanks in paths.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\');
        let code = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_proc_are_read_as_written() {
        assert_eq!(unescaped(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescaped(r"/a\04"), r"/a\04");
        assert_eq!(unescaped(r"\"), r"\");
    }
}
