//! Taking disks: what is refused, in which words, and who waits for whom.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const OPTIONS: OpenOptions = OpenOptions { wait: Duration::ZERO, minimum_bytes: 8192 };

/// A directory on a disk (where this program lies), and a file of `bytes` bytes in it.
fn file(bytes: u64) -> (tempfile::TempDir, PathBuf) {
    let program = std::env::current_exe().expect("this program");
    let directory = program.parent().expect("a directory");
    let directory = tempfile::tempdir_in(directory).expect("a directory");
    let path = directory.path().join("disk");
    File::create(&path).and_then(|file| file.set_len(bytes)).expect("a file");
    (directory, path)
}

fn refusal(path: &Path) -> String {
    open(path, OPTIONS).err().map(|error| error.to_string()).expect("refused")
}

/// A made-up host, described by files.
fn host(files: &[(&str, String)]) -> (tempfile::TempDir, Host) {
    let root = tempfile::tempdir().expect("a directory");
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
    }
    let host = Host::at(root.path());
    (root, host)
}

#[test]
fn a_file_is_opened_and_measured() {
    let (_directory, path) = file(1 << 20);
    let opened = open(&path, OPTIONS).expect("a plain file");
    assert_eq!((opened.size_bytes, opened.is_device), (1 << 20, false));
    assert_eq!(opened.path, path);
    let flags = OFlag::from_bits_retain(fcntl(&opened.fd, FcntlArg::F_GETFL).expect("flags"));
    assert_eq!(flags.contains(OFlag::O_DIRECT), opened.direct);
    assert!(opened.alignment.is_power_of_two() && opened.alignment <= 4096);
    assert!(opened.direct || opened.alignment == 1);
}

#[test]
fn a_file_in_memory_is_known_as_such() {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file in memory");
    file.as_file().set_len(1 << 20).expect("space");
    let opened = open(file.path(), OPTIONS).expect("a plain file");
    assert!(opened.on_tmpfs && !opened.direct);
}

#[test]
fn what_cannot_be_a_disk_is_refused_in_words() {
    let (directory, path) = file(1 << 20);
    assert!(refusal(&directory.path().join("gone")).contains("does not exist"));
    assert!(refusal(directory.path()).contains("is a directory, not a file or block device"));
    assert!(refusal(Path::new("/dev/null")).contains("is a character device"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("owner");
    assert!(refusal(&path).contains("read-only"));
    let small = file(4096).1;
    assert!(open(&small, OPTIONS).is_err());
}

#[test]
fn sizes_that_cannot_be_used_are_refused_with_a_way_out() {
    let (_directory, path) = file(4096);
    assert!(refusal(&path).contains("has 4096 bytes and at least 8192 are needed"));
    let (_directory, path) = file(8191 + 4096);
    let text = refusal(&path);
    assert!(text.contains("truncate -s 8192"), "{text}");
    let (_directory, path) = file(0);
    let any = OpenOptions { minimum_bytes: 0, ..OPTIONS };
    assert!(matches!(open(&path, any), Err(OpenError::TooSmall { .. })));
}

#[test]
fn a_disk_taken_twice_by_one_process_is_refused_at_once() {
    let (_directory, path) = file(1 << 20);
    let first = open(&path, OPTIONS).expect("free");
    let patient = OpenOptions { wait: Duration::from_secs(3600), ..OPTIONS };
    assert!(matches!(open(&path, patient), Err(OpenError::Twice { .. })));
    drop(first);
    // A child that another test has just forked may hold the descriptor until it is another program.
    assert!(open(&path, patient).is_ok());
}

/// A process that holds the lock on a file until its input ends.
fn stranger(path: &Path) -> std::process::Child {
    let mut child = std::process::Command::new("flock")
        .arg(path)
        .args(["sh", "-c", "echo held; cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("flock of util-linux");
    let mut held = [0; 5];
    let output = child.stdout.as_mut().expect("piped");
    io::Read::read_exact(output, &mut held).expect("the lock is held");
    child
}

#[test]
fn a_stranger_is_named_and_waited_for() {
    let (_directory, path) = file(1 << 20);
    let mut child = stranger(&path);
    let text = refusal(&path);
    assert!(text.contains(&format!("held by process {} (flock)", child.id())), "{text}");
    let patient = OpenOptions { wait: Duration::from_secs(3600), ..OPTIONS };
    let waiting = path.clone();
    let successor = std::thread::spawn(move || open(&waiting, patient).map(|_| ()));
    drop(child.stdin.take());
    assert!(child.wait().expect("ended").success());
    assert!(successor.join().expect("no panic").is_ok());
}

#[test]
fn a_lock_of_an_ended_process_is_recognised() {
    let (_directory, path) = file(1 << 20);
    let found = fs::metadata(&path).expect("a file");
    let (dev, ino) = (found.dev(), found.ino());
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    let locks = format!(
        "1: POSIX  ADVISORY  WRITE 11 {major:02x}:{minor:02x}:{ino} 0 EOF\n\
         2: FLOCK  ADVISORY  WRITE 4711 {major:02x}:{minor:02x}:{ino} 0 EOF\n\
         2: -> FLOCK  ADVISORY  WRITE 12 {major:02x}:{minor:02x}:{ino} 0 EOF\n"
    );
    let (_root, dead) = host(&[("proc/locks", locks.clone())]);
    assert_eq!(dead.lock_holder(&found), Some(Holder::Ended { pid: 4711 }));
    let comm = ("proc/4711/comm", "qemu\n".to_owned());
    let (_root, alive) = host(&[("proc/locks", locks), comm]);
    let name = "qemu".to_owned();
    assert_eq!(alive.lock_holder(&found), Some(Holder::Running { pid: 4711, name }));
    let text = describe(Some(Holder::Ended { pid: 4711 }), &Busy::Locked);
    assert!(text.contains("still landing"), "{text}");
}

#[test]
fn swap_files_and_files_behind_loop_devices_are_claimed() {
    let (_directory, path) = file(1 << 20);
    let found = fs::metadata(&path).expect("a file");
    let swaps = format!("Filename Type Size Used Priority\n{} file 1 0 -2\n", path.display());
    let (_root, swapping) = host(&[("proc/swaps", swaps)]);
    let claim = swapping.claim(Identity::of(&found)).expect("in use");
    assert!(claim.used.starts_with("swap space "), "{claim:?}");
    let backing = format!("{}\n", path.display());
    let (_root, looping) = host(&[("sys/block/loop3/loop/backing_file", backing)]);
    let claim = looping.claim(Identity::of(&found)).expect("in use");
    assert_eq!(claim.used, "/dev/loop3 is made of it");
    let (_root, idle) = host(&[]);
    assert_eq!(idle.claim(Identity::of(&found)), None);
}

#[test]
fn devices_mounted_or_built_upon_are_claimed_with_their_relatives() {
    let (device, number) = (nix::sys::stat::makedev(8, 17), "8:17".to_owned());
    let own = format!("sys/dev/block/{number}");
    let dev = (format!("{own}/dev"), number.clone());
    let part = (format!("{own}/disk1/partition"), "1".to_owned());
    let part_dev = (format!("{own}/disk1/dev"), "999:7".to_owned());
    let with = |more: (&str, String)| {
        let files = [dev.clone(), part.clone(), part_dev.clone()];
        let mut files: Vec<_> = files.iter().map(|(path, text)| (&**path, text.clone())).collect();
        files.push(more);
        let (_root, host) = host(&files);
        host.claim(Identity::Device(device)).map(|claim| claim.used)
    };
    let mounts = |number: &str| {
        format!("22 1 8:99 / / rw - ext4 none rw\n29 1 {number} / /mnt/a\\040b rw - ext4 none rw\n")
    };
    let info = "proc/self/mountinfo";
    assert_eq!(with((info, mounts(&number))).as_deref(), Some("mounted on /mnt/a b"));
    assert_eq!(with((info, mounts("999:7"))).as_deref(), Some("mounted on /mnt/a b"));
    assert_eq!(with((info, mounts("999:8"))), None);
    let held = format!("{own}/holders/dm-4");
    assert_eq!(with((&held, String::new())).as_deref(), Some("/dev/dm-4 is built upon it"));
    let held = format!("{own}/disk1/holders/md0");
    assert_eq!(with((&held, String::new())).as_deref(), Some("/dev/md0 is built upon it"));
    let (_root, read_only) = host(&[(&format!("{own}/ro"), "1\n".to_owned())]);
    assert!(read_only.is_read_only(device));
}
