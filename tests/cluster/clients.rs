//! Owns what other people's clients may do wrong at the NBD port, and get right: each broken rule has
//! its errno, and the connection goes on. Must never be judged by our own client.

use std::process::Command;

use crate::config::Wish;
use crate::stage::{Cluster, run, tool};

/// Everything that libnbd can be made to send against the rules, and what must come back.
const RULES: &str = r#"
import errno
uri, size = URI, h.get_size()
FUA, DF, FAST, NO_HOLE = nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_DF, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_NO_HOLE
h.set_strict_mode(0)
count = 0

def fails(code, call, *args, **more):
    global count
    try:
        call(*args, **more)
    except nbd.Error as error:
        assert error.errno == errno.errorcode[code], (call.__name__, args[1:], error)
        count += 1
        return
    raise AssertionError("%s%r succeeded" % (call.__name__, args[1:]))

old = bytes(h.pread(1 << 20, 0))
block = b"x" * 4096
# Past the end, by a little, by all, and around the end of numbers.
for offset in [size - 4095, size, size + 4096, 2**63 - 4096]:
    fails(errno.EINVAL, h.pread, 4096, offset)
    fails(errno.ENOSPC, h.pwrite, block, offset)
    fails(errno.ENOSPC, h.zero, 4096, offset)
    fails(errno.EINVAL, h.trim, 4096, offset)
fails(errno.EINVAL, h.pread, 4096, 2**64 - 4096)
fails(errno.EINVAL, h.pwrite, block, 2**64 - 4096)
fails(errno.EINVAL, h.pwrite, block, 2**64 - 1)
# Flags that do not belong to the command, or to any.
fails(errno.EINVAL, h.pread, 512, 0, flags=NO_HOLE)
fails(errno.EINVAL, h.pwrite, block, 0, flags=NO_HOLE)
fails(errno.EINVAL, h.pwrite, block, 0, flags=DF)
fails(errno.EINVAL, h.trim, 4096, 0, flags=FAST)
fails(errno.EINVAL, h.flush, flags=1 << 7)
fails(errno.EINVAL, h.pwrite, block, 0, flags=1 << 9)
# Commands that were not offered.
fails(errno.EINVAL, h.block_status, 4096, 0, lambda *a: 0)
assert bytes(h.pread(1 << 20, 0)) == old, "what was refused changed something"

# What may look odd and is right.
h.pread(512, 0, flags=FUA)
h.flush(flags=FUA)
assert h.pread(0, 0) == b""
h.pwrite(b"", 0)
h.trim(0, 0)
h.pread(100, size - 100)
h.pwrite(b"odd", 4095)
assert bytes(h.pread(5, 4094)) == old[4094:4095] + b"odd" + old[4098:4099]
large = b"0123456789abcdef" * ((33 << 20) // 16)
h.pwrite(large, 1 << 20, flags=FUA)
assert bytes(h.pread(len(large), 1 << 20)) == large
assert bytes(h.pread(65536, 1 << 20, flags=DF)) == large[:65536]
chunks = []
h.pread_structured(1 << 20, 1 << 20, lambda data, offset, kind, error: chunks.append(len(data)))
assert sum(chunks) == 1 << 20
h.trim(1 << 20, 2 << 20)
h.zero(1 << 20, 4 << 20, flags=NO_HOLE | FUA)
for offset in [2 << 20, 4 << 20]:
    assert bytes(h.pread(1 << 20, offset)) == bytes(1 << 20)
if h.can_fast_zero():
    try:
        h.zero(4096, 4 << 20, flags=FAST)
    except nbd.Error as error:
        assert error.errno == "ENOTSUP", error
else:
    fails(errno.EINVAL, h.zero, 4096, 4 << 20, flags=FAST)
h.cache(1 << 20, 0)
h.flush()
assert h.aio_is_ready()
print(count, "rules")
"#;

/// G22: every rule that a client can break costs it that request, and nothing else.
#[test]
fn every_broken_rule_has_its_errno_and_changes_nothing() {
    let mut cluster = Cluster::in_sync(Wish::new(64));
    let uri = cluster.site.uri(0);
    let script = RULES.replacen("URI", &format!("{uri:?}"), 1);
    // Of the distribution: a Python of somebody's own knows no libnbd, and neither does our folder.
    let mut shell = Command::new("nbdsh");
    shell.env("PATH", "/usr/bin:/bin").current_dir("/").args(["-u", &uri, "-c", &script]);
    let ran = run(&mut shell);
    assert_eq!(ran.code, 0, "{}{}", ran.output, ran.errors);
    println!("{}", ran.output.trim());
    cluster.assert_alive(0);
    cluster.assert_alive(1);
    cluster.assert_identical();
}

/// Whole images in and out, by the tool people use for that.
#[test]
fn images_are_copied_in_and_out() {
    let cluster = Cluster::in_sync(Wish::new(32));
    let uri = cluster.site.uri(0);
    let text = |name: &str| cluster.site.path(name).display().to_string();
    let (source, back) = (text("source.qcow2"), text("back.qcow2"));
    tool("qemu-img", &["create", "-q", "-f", "qcow2", &source, "32M"]);
    for write in ["write -q -P 7 100k 9M", "write -q -P 9 31M 1M"] {
        tool("qemu-io", &["-f", "qcow2", "-c", write, &source]);
    }
    let info = tool("qemu-img", &["info", "-f", "raw", &uri]);
    assert!(info.contains("32 MiB"), "{info}");
    tool("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", &source, &uri]);
    tool("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &source, &uri]);
    cluster.assert_identical();
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &back]);
    tool("qemu-img", &["compare", &source, &back]);
}
