"""Owns the peer that twinblk is measured against: qemu-nbd, which serves a file and replicates nothing.
Must never give it less than twinblk has: the same kind of file, cache and socket."""

import os
from pathlib import Path

from processes import Failed, eventually


def modes(file_system):
    """How it may open the file, best first. On tmpfs there is nothing but the page cache."""
    if file_system == "tmpfs":
        return [("writeback", "io_uring"), ("writeback", "threads")]
    return [("none", "io_uring"), ("none", "native")]


class QemuNbd:
    """A qemu-nbd on a file of its own."""

    def __init__(self, folder, run_folder):
        self.disk = Path(folder) / "plain.disk"
        self.socket = Path(run_folder) / "qemu.nbd"
        self.mode = None

    def start(self, processes, size_bytes, file_system):
        with open(self.disk, "xb") as disk:
            disk.truncate(size_bytes)
        if not any(self.starts(processes, cache, aio) for cache, aio in modes(file_system)):
            raise Failed(f"qemu-nbd does not serve {self.disk}")

    def starts(self, processes, cache, aio):
        command = ["qemu-nbd", "--format=raw", f"--cache={cache}", f"--aio={aio}", "--persistent"]
        command += ["--shared=0", f"--socket={self.socket}", str(self.disk)]
        with open(self.disk.with_suffix(".log"), "ab") as log:
            process = processes.start(command, stdout=log, stderr=log)
        eventually("qemu-nbd's socket", lambda: os.path.exists(self.socket) or process.poll() is not None)
        self.mode = f"--cache={cache} --aio={aio}"
        return process.poll() is None

    def uri(self):
        return f"nbd+unix:///?socket={self.socket}"
