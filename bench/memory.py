"""Owns the measurement of an idle pair's memory beside what the manual promises.
Must never load the pair: what is measured is what it costs to have it."""

from pair import NODES

MIB = 1 << 20
DEVICE_BYTES = 1 << 40
# See the manual's chapter on performance.
BASE_MIB = 48
PER_TIB_AND_PEER_MIB = 32
# Defaults of client_buffers, peer_buffers and background_buffers; one shard.
BUFFERS_MIB = 64 + 64 + 32
PROMISED_MIB = BASE_MIB + PER_TIB_AND_PEER_MIB + BUFFERS_MIB


def resident_mib(pid):
    """What of a process is in memory, by kind."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "RssFile", "RssShmem")}


def measure_memory(pair, processes):
    pair.lay_out({"idle": "C"}, {"idle": DEVICE_BYTES})
    pair.start(processes)
    pair.serve_empty("idle")
    return {node: resident_mib(pair.daemons[node].pid) for node in NODES}


def show_memory(found):
    print("an idle pair, connected and in sync, with one resource of 1 TiB and default buffers\n")
    print("| node | resident | anonymous | file | promised at most |")
    print("|---|---|---|---|---|")
    for node, kinds in found.items():
        figures = [f"{kinds[kind]:.0f} MiB" for kind in ("VmRSS", "RssAnon", "RssFile")]
        print(f"| {node} | {' | '.join(figures)} | {PROMISED_MIB} MiB |")
    kept = all(kinds["VmRSS"] <= PROMISED_MIB for kinds in found.values())
    print(f"\n{'kept' if kept else 'BROKEN'}: {BASE_MIB} MiB, {PER_TIB_AND_PEER_MIB} MiB per TiB and peer slot "
          f"in use, and {BUFFERS_MIB} MiB of buffers")
    return kept
