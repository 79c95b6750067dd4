"""Owns what is measured with fio: one cell is one kind of load on one target for some seconds.
Must never compare."""

import json
from dataclasses import dataclass

from processes import run


@dataclass(frozen=True)
class Cell:
    title: str
    load: str
    block: str
    depth: int
    unit: str

    def direction(self):
        return "read" if "read" in self.load else "write"


CELLS = [
    Cell("4 KiB random write, depth 1", "randwrite", "4k", 1, "IOPS"),
    Cell("4 KiB random write, depth 32", "randwrite", "4k", 32, "IOPS"),
    Cell("1 MiB sequential write, depth 4", "write", "1m", 4, "MiB/s"),
    Cell("4 KiB random read, depth 1", "randread", "4k", 1, "IOPS"),
    Cell("4 KiB random read, depth 32", "randread", "4k", 32, "IOPS"),
]


def fio(uri, size_bytes, *options):
    """Runs one fio job on an export and gives what it says of it."""
    output = run(
        "fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--size={size_bytes}",
        "--output-format=json", *options,
    )
    # fio may put notes before its JSON.
    return json.loads(output[output.index("{"):])["jobs"][0]


def fill(uri, size_bytes):
    """Writes every block once: a block's first write costs a file system more than the others."""
    fio(uri, size_bytes, "--rw=write", "--bs=1m", "--iodepth=4")


def measure(cell, uri, size_bytes, seconds):
    """One figure, with its latencies."""
    job = fio(
        uri, size_bytes, f"--rw={cell.load}", f"--bs={cell.block}", f"--iodepth={cell.depth}",
        "--norandommap", "--time_based", f"--runtime={seconds}", f"--ramp_time={seconds / 5:g}",
    )[cell.direction()]
    value = job["iops"] if cell.unit == "IOPS" else job["bw_bytes"] / (1 << 20)
    latency = job["clat_ns"]
    return {
        "value": value,
        "mean_us": latency["mean"] / 1000,
        "p99_us": latency.get("percentile", {}).get("99.000000", 0) / 1000,
    }
