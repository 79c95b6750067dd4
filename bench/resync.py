"""Owns the measurement of a resync beside a plain copy of as much on the same file system.
Must never count the time to connect: that is the link's, not the resync's."""

import json
import subprocess
import time

from cells import fio
from processes import Failed, run

MIB = 1 << 20


def measure_resync(pair, resource, size_bytes):
    """Lets the peer miss writes of this size, and gives the MiB/s at which it gets them."""
    pair.on("alpha", "disconnect", resource)
    fio(pair.uri(resource), size_bytes, "--rw=write", "--bs=1m", "--iodepth=4")
    missed = pair.status("alpha", resource)["peers"][0]["out_of_sync_bytes"]
    if missed < size_bytes:
        raise Failed(f"{missed} bytes are marked, {size_bytes} were written")
    command = pair.command("alpha", "events", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
        try:
            pair.on("alpha", "connect", resource)
            seconds = seconds_of_resync(events.stdout, resource)
        finally:
            events.kill()
    pair.on("alpha", "wait", resource, "--for", "insync")
    copied = pair.status("alpha", resource)["peers"][0]["last_resync_bytes"]
    return copied / MIB / seconds


def seconds_of_resync(lines, resource):
    """From the moment the node is the source of a resync until it is not."""
    begun = None
    for line in lines:
        event = json.loads(line)
        if (event.get("resource"), event.get("what")) != (resource, "replication"):
            continue
        if event["new"] == "SyncSource":
            begun = time.monotonic()
        elif event["old"] == "SyncSource" and begun is not None:
            return time.monotonic() - begun
    raise Failed("the stream of events ended before the resync did")


def measure_copy(source, target, size_bytes, direct):
    """Copies as much from one file into another that has its blocks already, and gives the MiB/s."""
    flags = ["iflag=direct", "oflag=direct"] if direct else []
    begun = time.monotonic()
    run(
        "dd", f"if={source}", f"of={target}", "bs=1M", f"count={size_bytes // MIB}",
        "conv=notrunc,fsync", "status=none", *flags,
    )
    return size_bytes / MIB / (time.monotonic() - begun)
