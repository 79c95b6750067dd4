"""Owns a pair of twinblk daemons on this machine: configuration, start, commands, state.
Must never measure."""

import json
import os
import secrets
import socket
from pathlib import Path

from processes import Failed, eventually, run

NODES = ("alpha", "beta")
ADDRESSES = ("127.78.0.1", "127.78.0.2")


def free_port():
    """A port that nobody has on either address, at this moment."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((ADDRESSES[0], 0))
            port = first.getsockname()[1]
            try:
                second.bind((ADDRESSES[1], port))
            except OSError:
                continue
            return port


class Pair:
    """Two nodes with the same resources. `folder` holds the disks, `run_folder`, which has a short
    path, the sockets."""

    def __init__(self, program, folder, run_folder):
        self.program, self.folder, self.run_folder = program, Path(folder), Path(run_folder)
        self.config = self.folder / "twinblk.toml"
        self.daemons = {}

    def disk(self, node, resource):
        return self.folder / f"{resource}.{node}.disk"

    def lay_out(self, protocols, sizes_bytes, settings=None):
        """One resource for each name in `protocols`, on empty disks of the size it has in `sizes_bytes`; `settings`
        has further lines of its configuration."""
        secret = self.folder / "secret"
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(16))
        self.config.write_text(self.config_text(secret, protocols, settings or {}))
        for node in NODES:
            for resource in protocols:
                with open(self.disk(node, resource), "xb") as disk:
                    disk.truncate(sizes_bytes[resource])
                self.on(node, "create", resource)

    def config_text(self, secret, protocols, settings):
        port = free_port()
        text = f'secret_file = "{secret}"\n'
        for number, node in enumerate(NODES):
            text += (
                f'[node.{node}]\nid = {number}\naddress = "{ADDRESSES[number]}"\nlink_port = {port}\n'
                f'nbd_listen = []\nrun_directory = "{self.run_folder / node}"\n'
            )
        for resource, protocol in protocols.items():
            text += f'[resource.{resource}]\nprotocol = "{protocol}"\n{settings.get(resource, "")}'
            for node in NODES:
                disk = self.disk(node, resource)
                text += f'[resource.{resource}.on.{node}]\ndisk = "{disk}"\nmetadata = "{disk}.meta"\n'
        return text

    def command(self, node, *arguments):
        return [self.program, "--config", str(self.config), "--node", node, *arguments]

    def on(self, node, *arguments):
        return run(*self.command(node, *arguments))

    def status(self, node, resource):
        return json.loads(self.on(node, "status", resource, "--json"))["resources"][0]

    def start(self, processes):
        for node in NODES:
            with open(self.log(node), "ab") as log:
                self.daemons[node] = processes.start(
                    self.command(node, "serve"), stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"}
                )
        for node in NODES:
            eventually(f"an answer of {node}", lambda node=node: self.answers(node))

    def answers(self, node):
        if self.daemons[node].poll() is not None:
            raise Failed(f"{node} ended:\n{self.log(node).read_text()}")
        try:
            return bool(self.on(node, "list"))
        except Failed:
            return False

    def log(self, node):
        return self.folder / f"{node}.log"

    def serve_empty(self, resource):
        """Both copies are zeroes and known to be; alpha serves."""
        self.on("alpha", "wait", resource, "--for", "connected")
        self.on("alpha", "init", resource, "--both-empty")
        self.on("alpha", "wait", resource, "--for", "insync")
        self.on("alpha", "promote", resource)

    def uri(self, resource):
        return f"nbd+unix:///{resource}?socket={self.run_folder}/alpha/{resource}.nbd"

    def settle(self, resource):
        """Waits until nothing of the last writes is under way any more, on either node."""

        def is_quiet():
            status = self.status("alpha", resource)
            busy = status["requests_in_flight"] + status["peers"][0]["unstable_writes"]
            return busy == 0 and not status["degraded"]

        eventually(f"quiet on {resource}", is_quiet)

    def engine(self):
        """The daemon's word on how it does its I/O."""
        log = self.log("alpha").read_text()
        return next((name for name in ("io_uring", "portable") if f"{name} engine" in log), "unknown")

    def check_equal(self, resource):
        """Fails unless both disks hold the same: a fast mirror that is none has no figures."""
        run("cmp", *(str(self.disk(node, resource)) for node in NODES))
