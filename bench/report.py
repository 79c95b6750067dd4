"""Owns how figures are shown: machine, table, ratios.
Must never judge: a figure is neither good nor bad."""

import os
import platform
from pathlib import Path
from statistics import median

from processes import Failed, run


def machine(folder, program):
    """What the figures depend on besides twinblk."""
    top = Path(__file__).parent.parent
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "kernel": platform.release(),
        "load_before": f"{os.getloadavg()[0]:.1f} (average of one minute)",
        "file_system": file_system(folder),
        "twinblk": run(program, "--version").strip(),
        "commit": commit(top),
        "fio": run("fio", "--version").strip(),
        "qemu": run("qemu-nbd", "--version").split("\n", 1)[0],
    }


def file_system(folder):
    return run("df", "--output=fstype", str(folder)).split()[-1]


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit(top):
    try:
        changed = run("git", "-C", str(top), "status", "--porcelain", "--untracked-files=no", "src", "nbd", "Cargo.lock")
        return run("git", "-C", str(top), "rev-parse", "--short", "HEAD").strip() + (" (changed)" if changed else "")
    except (Failed, FileNotFoundError):
        return "unknown"


def show_facts(facts):
    print()
    for name, value in facts.items():
        print(f"  {name.replace('_', ' ')}: {value}")


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def row(measurement, target, runs):
    """One line of the table. The ratio is the median of the rounds' own: both sides of each were
    measured within the same minute."""
    values = [it["value"] for it in runs]
    peers = [it["value"] for it in measurement["targets"][measurement["peer"]]]
    ratio = median(mine / theirs for mine, theirs in zip(values, peers))
    p99 = [it["p99_us"] for it in runs if "p99_us" in it]
    cells = [
        measurement["title"], target, f"{number(median(values))} {measurement['unit']}",
        f"{number(min(values))}..{number(max(values))}",
        "1" if target == measurement["peer"] else f"{ratio:.2f}",
        f"{number(median(p99))} µs" if p99 else "",
    ]
    return f"| {' | '.join(cells)} |"


def show_table(measurements, rounds):
    print(f"\nmedians of {rounds} interleaved rounds\n")
    print("| load | target | median | min..max | ratio to peer | p99 |")
    print("|---|---|---|---|---|---|")
    for measurement in measurements:
        for target, runs in measurement["targets"].items():
            print(row(measurement, target, runs))
