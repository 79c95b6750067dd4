"""Owns the measurement of a resync beside a plain copy of as much on the same file system: a resource
of its own, of whose device the first half is written, missed and copied.
Must never load the resource while it is measured."""

import json
import subprocess
import threading
import time
from pathlib import Path

from cells import fill
from processes import PATIENCE_SECONDS, Failed, run

MIB = 1 << 20
RESOURCE = "bench-resync"


class Resync:
    """The resource, and the file that the plain copy goes to."""

    def __init__(self, pair, size_bytes, direct):
        self.pair, self.size_bytes, self.direct = pair, size_bytes, direct
        self.device_bytes = 2 * size_bytes
        self.copy = Path(pair.folder) / "copy.disk"

    def prepare(self):
        """After this all that is going to be written has its blocks."""
        fill(self.pair.uri(RESOURCE), self.size_bytes)
        self.pair.settle(RESOURCE)
        self.measure_copy()

    def measure_copy(self):
        """MiB/s of dd, until what it wrote is stable."""
        flags = ["iflag=direct", "oflag=direct"] if self.direct else []
        begun = time.monotonic()
        run(
            "dd", f"if={self.pair.disk('alpha', RESOURCE)}", f"of={self.copy}", "bs=1M",
            f"count={self.size_bytes // MIB}", "conv=notrunc,fsync", "status=none", *flags,
        )
        return self.size_bytes / MIB / (time.monotonic() - begun)

    def measure_resync(self):
        """Lets the peer miss writes, and gives the MiB/s from `connect` until both are in sync."""
        self.pair.on("alpha", "disconnect", RESOURCE)
        fill(self.pair.uri(RESOURCE), self.size_bytes)
        missed = self.peer()["out_of_sync_bytes"]
        seconds = self.seconds_until_in_sync()
        copied = self.peer()["last_resync_bytes"]
        if missed != self.size_bytes or copied != missed:
            raise Failed(f"of {self.size_bytes} bytes written {missed} were marked and {copied} copied")
        return copied / MIB / seconds

    def peer(self):
        return self.pair.status("alpha", RESOURCE)["peers"][0]

    def seconds_until_in_sync(self):
        """Told by events: `twinblk wait` looks five times a second, which is too coarse."""
        command = self.pair.command("alpha", "events", "--json")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stream:
            # A resync that never ends fails the run; no figure depends on this.
            guard = threading.Timer(10 * PATIENCE_SECONDS, stream.kill)
            guard.start()
            try:
                events = (json.loads(line) for line in stream.stdout)
                # Connecting earlier could end the resync before anybody listens.
                until(events, lambda event: event.get("resource") == "-")
                begun = time.monotonic()
                self.pair.on("alpha", "connect", RESOURCE)
                until(events, is_end)
                return time.monotonic() - begun
            finally:
                guard.cancel()
                stream.kill()


def until(events, wanted):
    if not any(wanted(event) for event in events):
        raise Failed("the stream of events ended before what was waited for")


def is_end(event):
    """The node is no longer the source of a resync. Whether it got to its end the caller checks."""
    about = (event.get("resource"), event.get("what"), event.get("old"))
    return about == (RESOURCE, "replication", "SyncSource")
