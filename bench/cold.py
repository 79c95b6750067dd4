"""Owns the measurement of cold writes, each to an extent that has to go into the activity log first, beside hot
ones: the same writes to a resource whose log holds all extents. Must never compare different places on a disk."""

import json
import os
import random
import tempfile
from statistics import mean, median

from cells import fio
from processes import run
from report import number

MIB = 1 << 20
DEVICE_BYTES = 64 << 30
EXTENT_BYTES = 4 * MIB
# One block of each extent is written: a device with many extents needs little space, and a file system that
# discards what is deleted is not busy for minutes with it.
STRIDE_BYTES = EXTENT_BYTES
# All extents of the device (the most a log can hold), and the default.
LOG_EXTENTS = {"hot": 16384, "cold": 1237}
DEPTHS = (1, 32, 128)
# More writes a second than any of this does.
WRITES_PER_SECOND_MAX = 200_000
RAW_SECONDS = 2


class Cold:
    """Two resources on one pair of nodes, different in nothing but the size of the log."""

    def __init__(self, pair, folder):
        self.pair, self.folder = pair, folder
        self.order = os.path.join(folder, "cold.order")

    def start(self, processes):
        settings = {name: f"log_extents = {extents}\n" for name, extents in LOG_EXTENTS.items()}
        self.pair.lay_out(dict.fromkeys(LOG_EXTENTS, "C"), dict.fromkeys(LOG_EXTENTS, DEVICE_BYTES), settings)
        self.pair.start(processes)
        for name in LOG_EXTENTS:
            self.pair.serve_empty(name)
            # The first write of a block costs a file system more than the others; and all that fit become hot.
            fio(
                self.pair.uri(name), DEVICE_BYTES, "--rw=write", "--bs=4k", "--iodepth=64", "--zonemode=strided",
                "--zonesize=4k", f"--zonerange={STRIDE_BYTES}", f"--io_size={DEVICE_BYTES // STRIDE_BYTES * 4096}",
            )
            self.pair.settle(name)

    def write_order(self, seconds):
        """All extents in a random order, again and again the same: each write is to one that left the log long ago."""
        places = [extent * STRIDE_BYTES for extent in range(DEVICE_BYTES // STRIDE_BYTES)]
        random.shuffle(places)
        lines = "".join(f"nbd write {place} 4096\n" for place in places)
        passes = 1 + int(WRITES_PER_SECOND_MAX * seconds) // len(places)
        with open(self.order, "w", encoding="ascii") as order:
            order.write("fio version 2 iolog\nnbd add\nnbd open\n")
            order.writelines(lines for _ in range(passes))

    def measure(self, name, depth, seconds):
        """Random writes all over the device, and what was written to the log for them."""
        before = self.log_writes(name)
        job = fio(
            self.pair.uri(name), DEVICE_BYTES, f"--read_iolog={self.order}", "--replay_no_stall=1", f"--iodepth={depth}",
            f"--runtime={seconds}",
        )["write"]
        self.pair.settle(name)
        latency = job["clat_ns"]
        return {
            "iops": job["iops"], "mean_us": latency["mean"] / 1000, "p99_us": latency["percentile"]["99.000000"] / 1000,
            "writes": job["total_ios"], "log_writes": self.log_writes(name) - before,
        }

    def log_writes(self, name):
        return self.pair.status("alpha", name)["activity_log_writes"]

    def measure_disk(self):
        """What the disk alone takes for a write of 4 KiB, plain and durable, one at a time, in microseconds."""
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:
            place = [f"--filename={file.name}", f"--size={64 * MIB}", "--ioengine=psync", "--direct=1"]
            fio_on_disk("--rw=write", "--bs=1m", *place)
            timed = ["--rw=randwrite", "--bs=4k", *place, "--time_based", f"--runtime={RAW_SECONDS}"]
            plain, durable = (fio_on_disk(f"--sync={sync}", *timed) for sync in ("none", "dsync"))
            return {"plain_us": plain["clat_ns"]["mean"] / 1000, "durable_us": durable["clat_ns"]["mean"] / 1000}

    def rounds(self, count, seconds):
        """Interleaved; hot and cold take turns in being first."""
        found = []
        self.write_order(seconds)
        for turn in range(count):
            disk = self.measure_disk()
            for depth in DEPTHS:
                names = sorted(LOG_EXTENTS, reverse=turn % 2 == 0)
                found.append({"depth": depth, "disk": disk, **{name: self.measure(name, depth, seconds) for name in names}})
        return found


def fio_on_disk(*options):
    output = run("fio", "--name=disk", "--output-format=json", *options)
    return json.loads(output[output.index("{"):])["jobs"][0]["write"]


def show_cold(found):
    print("\n| depth | hot IOPS | cold IOPS | time, cold / hot | cold writes per log write | hot mean | cold mean | hot mean + durable write |")
    print("|---|---|---|---|---|---|---|---|")
    for depth in DEPTHS:
        rounds = [it for it in found if it["depth"] == depth]
        of = lambda name, key: median(it[name][key] for it in rounds)  # noqa: E731
        ratio = median(it["hot"]["iops"] / it["cold"]["iops"] for it in rounds)
        batch = median(it["cold"]["writes"] / max(1, it["cold"]["log_writes"]) for it in rounds)
        sums = median(it["hot"]["mean_us"] + it["disk"]["durable_us"] for it in rounds)
        cells = [number(of(name, "iops")) for name in ("hot", "cold")]
        cells += [f"{ratio:.2f}", f"{batch:.1f}"] + [f"{it:.0f} µs" for it in (of("hot", "mean_us"), of("cold", "mean_us"), sums)]
        print(f"| {depth} | {' | '.join(cells)} |")
    alone = [f"{name}: {mean(it['disk'][key] for it in found):.0f} µs" for name, key in (("plain", "plain_us"), ("durable", "durable_us"))]
    print(f"\na write of 4 KiB to the disk alone, {', '.join(alone)}")
