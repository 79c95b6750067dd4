"""Owns the processes of a run: each is ended by its id, also when the run fails or is told to stop.
Must never end a process it did not start."""

import signal
import subprocess
import sys
import time

PATIENCE_SECONDS = 60


class Failed(Exception):
    """The run cannot go on, for the reason given."""


def run(*command):
    """Runs a program to its end, which must be a good one, and gives its output."""
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Failed(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def eventually(what, look):
    """Waits until `look` gives something true, and gives that."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise Failed(f"{what} did not come about in {PATIENCE_SECONDS} s")


def stop_on_signals():
    """Makes a signal to stop an exception, so that all that was started is ended."""

    def stop(number, _):
        sys.exit(f"bench: stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup has it ignored, and means it.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


class Processes:
    """Processes in the background; the last one started is the first one ended."""

    def __init__(self):
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            self.end(process)

    def start(self, command, **options):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
        self.running.append(process)
        return process

    @staticmethod
    def end(process):
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
