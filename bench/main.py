"""Owns the order of a run: lay out, fill, measure in interleaved rounds, show.
Must never pass or fail by the clock."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import report
from cells import CELLS, fill, measure
from memory import measure_memory, show_memory
from pair import Pair
from processes import Failed, Processes, stop_on_signals
from qemu import QemuNbd
from resync import measure_copy, measure_resync

MIB = 1 << 20
PROTOCOLS = {"bench-c": "C", "bench-b": "B", "bench-a": "A"}
QEMU = "qemu-nbd, alone"


def options():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures twinblk against qemu-nbd.")
    parser.add_argument("--twinblk", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="how often each cell is measured (default 3)")
    parser.add_argument("--seconds", type=float, help="how long a cell is measured (default 5)")
    parser.add_argument("--size", type=int, metavar="MIB", help="of each disk, of which there are 7 (default 512)")
    parser.add_argument("--dir", required=True, help="where the disks are put (default: cargo's target)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there as well")
    parser.add_argument("--quick", action="store_true", help="one short round on small disks: shows that it works")
    parser.add_argument("--memory", action="store_true", help="only the memory of an idle pair with 1 TiB")
    chosen = parser.parse_args()
    defaults = {"rounds": 1, "seconds": 1, "size": 128} if chosen.quick else {"rounds": 3, "seconds": 5, "size": 512}
    for name, value in defaults.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    if not Path(chosen.dir).is_dir():
        parser.error(f"{chosen.dir} is not a directory")
    if min(chosen.rounds, chosen.seconds) <= 0 or chosen.size < 16:
        parser.error("--rounds and --seconds must be above 0, --size at least 16")
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

    def start(self):
        self.pair.lay_out(PROTOCOLS, self.size_bytes)
        self.pair.start(self.processes)
        self.qemu.start(self.processes, self.size_bytes, self.facts["file_system"])
        self.facts["twinblk_engine"] = self.pair.engine()
        self.facts["qemu_nbd"] = self.qemu.mode
        for resource in PROTOCOLS:
            self.pair.serve_empty(resource)
        for uri in self.targets().values():
            say(f"filling {uri}")
            fill(uri, self.size_bytes)
        for resource in PROTOCOLS:
            self.pair.settle(resource)

    def targets(self):
        """What each cell is measured on, by name."""
        twinblk = {f"twinblk {protocol}": self.pair.uri(name) for name, protocol in PROTOCOLS.items()}
        return {QEMU: self.qemu.uri(), **twinblk}

    def rounds(self):
        """All figures: rounds outside, targets inside, so that a neighbour's load hits all alike."""
        found = [
            {"title": cell.title, "unit": cell.unit, "peer": QEMU, "targets": {name: [] for name in self.targets()}}
            for cell in CELLS
        ]
        found.append({"title": "resync", "unit": "MiB/s", "peer": "dd", "targets": {"dd": [], "twinblk C": []}})
        for number in range(self.chosen.rounds):
            for cell, measurement in zip(CELLS, found):
                say(f"round {number + 1}: {cell.title}")
                self.one_cell(cell, measurement)
            say(f"round {number + 1}: resync")
            self.one_resync(found[-1])
        return found

    def one_cell(self, cell, measurement):
        for name, uri in self.targets().items():
            measurement["targets"][name].append(measure(cell, uri, self.size_bytes, self.chosen.seconds))
            for resource in PROTOCOLS:
                self.pair.settle(resource)

    def one_resync(self, measurement):
        source, direct = self.pair.disk("alpha", "bench-c"), self.facts["file_system"] != "tmpfs"
        copy = measure_copy(source, self.qemu.disk, self.size_bytes, direct)
        resync = measure_resync(self.pair, "bench-c", self.size_bytes)
        measurement["targets"]["dd"].append({"value": copy})
        measurement["targets"]["twinblk C"].append({"value": resync})


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
        else:
            bench.start()
            result, kept = bench.rounds(), True
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
