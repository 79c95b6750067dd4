"""Owns the order of a run: lay out, fill, measure in interleaved rounds, show.
Must never pass or fail by the clock."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import report
from cells import CELLS, fill, measure
from cold import Cold, show_cold
from memory import measure_memory, show_memory
from pair import Pair
from processes import Failed, Processes, stop_on_signals
from qemu import QemuNbd
from resync import RESOURCE as RESYNC, Resync

MIB = 1 << 20
PROTOCOLS = {"bench-c": "C", "bench-b": "B", "bench-a": "A"}
QEMU = "qemu-nbd, alone"


def options():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures twinblk against qemu-nbd.")
    parser.add_argument("--twinblk", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="how often each cell is measured (default 3)")
    parser.add_argument("--seconds", type=float, help="how long a cell is measured (default 5)")
    parser.add_argument("--size", type=int, metavar="MIB", help="of each of 7 disks for fio (default 512)")
    parser.add_argument("--resync", type=int, metavar="MIB", help="how much a resync copies, on 3 more disks (default 1024)")
    parser.add_argument("--dir", required=True, help="where the disks are put (default: cargo's target)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there as well")
    parser.add_argument("--quick", action="store_true", help="one short round on small disks: shows that it works")
    parser.add_argument("--cold", action="store_true", help="only writes to extents that are not in the activity log")
    parser.add_argument("--memory", action="store_true", help="only the memory of an idle pair with 1 TiB")
    chosen = parser.parse_args()
    usual = {"rounds": 3, "seconds": 5, "size": 512, "resync": 1024}
    quick = {"rounds": 1, "seconds": 1, "size": 128, "resync": 256}
    for name, value in (quick if chosen.quick else usual).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    if not Path(chosen.dir).is_dir():
        parser.error(f"{chosen.dir} is not a directory")
    if min(chosen.rounds, chosen.seconds) <= 0 or min(chosen.size, chosen.resync) < 16:
        parser.error("--rounds and --seconds must be above 0, --size and --resync at least 16")
    return chosen


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Bench:
    """One run in two folders: one for disks, one with a short path for sockets."""

    def __init__(self, chosen, folder, run_folder, processes):
        self.chosen, self.processes = chosen, processes
        self.pair = Pair(chosen.twinblk, folder, run_folder)
        self.qemu = QemuNbd(folder, run_folder)
        self.size_bytes = chosen.size * MIB
        self.facts = report.machine(folder, chosen.twinblk)
        # On tmpfs there is no direct I/O that would be any.
        self.resync = Resync(self.pair, chosen.resync * MIB, self.facts["file_system"] != "tmpfs")

    def start(self):
        sizes_bytes = {RESYNC: self.resync.device_bytes, **{name: self.size_bytes for name in PROTOCOLS}}
        self.pair.lay_out({**PROTOCOLS, RESYNC: "C"}, sizes_bytes)
        self.pair.start(self.processes)
        self.qemu.start(self.processes, self.size_bytes, self.facts["file_system"])
        self.facts["twinblk_engine"] = self.pair.engine()
        self.facts["qemu_nbd"] = self.qemu.mode
        for resource in sizes_bytes:
            self.pair.serve_empty(resource)
        for uri in self.targets().values():
            say(f"filling {uri}")
            fill(uri, self.size_bytes)
        for resource in PROTOCOLS:
            self.pair.settle(resource)
        say("filling what is resynced")
        self.resync.prepare()

    def finish(self):
        """What was measured was a mirror."""
        say("comparing both copies of each")
        for resource in [*PROTOCOLS, RESYNC]:
            self.pair.settle(resource)
            self.pair.check_equal(resource)

    def targets(self):
        """What each cell is measured on, by name."""
        twinblk = {f"twinblk {protocol}": self.pair.uri(name) for name, protocol in PROTOCOLS.items()}
        return {QEMU: self.qemu.uri(), **twinblk}

    def rounds(self):
        """All figures: rounds outside, targets inside, so that no target has the quiet minutes to itself."""
        found = [
            {"title": cell.title, "unit": cell.unit, "peer": QEMU, "targets": {name: [] for name in self.targets()}}
            for cell in CELLS
        ]
        found.append({"title": "resync", "unit": "MiB/s", "peer": "dd", "targets": {"dd": [], "twinblk C": []}})
        for number in range(self.chosen.rounds):
            for cell, measurement in zip(CELLS, found):
                say(f"round {number + 1}: {cell.title}")
                self.one_cell(cell, measurement, number)
            say(f"round {number + 1}: resync")
            self.one_resync(found[-1])
        return found

    def one_cell(self, cell, measurement, number):
        # Each round begins with another target, so that none is always the first.
        targets = list(self.targets().items())
        first = number % len(targets)
        for name, uri in targets[first:] + targets[:first]:
            measurement["targets"][name].append(measure(cell, uri, self.size_bytes, self.chosen.seconds))
            for resource in PROTOCOLS:
                self.pair.settle(resource)

    def one_resync(self, measurement):
        measurement["targets"]["dd"].append({"value": self.resync.measure_copy()})
        measurement["targets"]["twinblk C"].append({"value": self.resync.measure_resync()})


def main():
    chosen = options()
    stop_on_signals()
    with tempfile.TemporaryDirectory(prefix="twinblk-bench.", dir=chosen.dir) as folder, \
            tempfile.TemporaryDirectory(prefix="twinblk-bench.", dir="/tmp") as run_folder, \
            Processes() as processes:
        bench = Bench(chosen, Path(folder), Path(run_folder), processes)
        if chosen.memory:
            result = measure_memory(bench.pair, processes)
            report.show_facts(bench.facts)
            kept = show_memory(result)
        elif chosen.cold:
            cold = Cold(bench.pair, folder)
            cold.start(processes)
            result, kept = cold.rounds(chosen.rounds, chosen.seconds), True
            report.show_facts(bench.facts)
            show_cold(result)
        else:
            bench.start()
            result, kept = bench.rounds(), True
            bench.finish()
            report.show_facts(bench.facts)
            report.show_table(result, chosen.rounds)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps({"facts": bench.facts, "result": result}, indent=1) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(f"bench: {failed}")
    except KeyboardInterrupt:
        sys.exit(130)
