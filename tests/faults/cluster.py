"""What a round hurts: one broker behind a proxy, its disk a small one, and workers under a supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from streams.localkafka import LocalKafka, free_port

from .proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKER = Path(__file__).parent / "jumping_worker.py"
DISK = "768m"
STOP_S = 90.0


class Broker(LocalKafka):
    """A node that tells its clients to come by the proxy, with its data on a disk that can be filled."""

    def __init__(self, run_dir: Path) -> None:
        port, self.proxy_port = free_port(), free_port()
        super().__init__(run_dir, port=port)
        self.proxy = Proxy(self.proxy_port, port)
        self.data = self.run_dir / "data"
        self.data.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "faults", str(self.data)]
        self.has_small_disk = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    @property
    def address(self) -> str:
        """Where clients go."""
        return f"127.0.0.1:{self.proxy_port}"

    def _configure(self, java: str, jars: Path, port: int) -> Path:
        config = super()._configure(java, jars, port)
        text = config.read_text(encoding="utf-8")
        told = "advertised.listeners=PLAINTEXT://127.0.0.1:"
        config.write_text(text.replace(f"{told}{port}", f"{told}{self.proxy_port}"), encoding="utf-8")
        return config

    def send(self, number: signal.Signals) -> None:
        """Send the broker's process a signal, if it runs."""
        pid = self.status().pid
        if pid is not None:
            os.kill(pid, number)

    def restart(self, away_s: float = 0.0, *, clean: bool = True) -> None:
        """Stop the broker, or kill it, and start it again after a while."""
        if clean:
            self.stop()
        else:
            self.send(signal.SIGKILL)
            wait(lambda: not self.status().running, 20)
        time.sleep(away_s)
        self.start()

    def fill_disk(self) -> None:
        """Leave the broker no byte to write."""
        with suppress(OSError), (self.data / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 20))

    def free_disk(self) -> None:
        """Take the ballast away."""
        (self.data / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Stop and clean up."""
        self.send(signal.SIGCONT)
        self.stop()
        self.proxy.close()
        if self.has_small_disk:
            subprocess.run(["umount", str(self.data)], check=False)


@dataclass
class Workers:
    """Keeps so many workers running, as a supervisor would, and notes how they ended."""

    environ: dict[str, str]
    folder: Path
    wanted: int = 0
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._clock = self.folder / "clock"
        self._clock.write_text("0", encoding="ascii")
        self.environ["CLOCK_FILE"] = str(self._clock)
        threading.Thread(target=self._supervise, name="supervisor", daemon=True).start()

    def _supervise(self) -> None:
        while not self._stopped.wait(0.2):
            with self._lock:
                for worker in [w for w in self.running if w.poll() is not None]:
                    self.running.remove(worker)
                    self.ended.append(worker.returncode)
                while len(self.running) < self.wanted:
                    self._start()

    def _start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.running.append(
                subprocess.Popen([sys.executable, str(WORKER)], env=self.environ, stdout=log, stderr=log)
            )

    def pick(self, draw: Callable[[int], int]) -> subprocess.Popen[bytes] | None:
        """Return a running worker."""
        with self._lock:
            return self.running[draw(len(self.running))] if self.running else None

    def scale(self, wanted: int) -> list[subprocess.Popen[bytes]]:
        """Run so many from now on; those too many are asked to stop, and returned."""
        with self._lock:
            self.wanted = wanted
            many, self.running = self.running[wanted:], self.running[:wanted]
        for worker in many:
            worker.terminate()
        return many

    @contextmanager
    def frozen(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Stop all workers, and start none, for a while."""
        with self._lock:
            for worker in self.running:
                worker.send_signal(signal.SIGSTOP)
            yield list(self.running)
            for worker in self.running:
                worker.send_signal(signal.SIGCONT)

    def jump_clock(self, offset: str) -> None:
        """Set the workers' clock so many seconds off."""
        self._clock.write_text(offset, encoding="ascii")

    def stop(self) -> list[int]:
        """Stop all; return the exit codes, -9 of those that had to be killed."""
        codes = [self._end(worker) for worker in self.scale(0)]
        self._stopped.set()
        return codes

    @staticmethod
    def _end(worker: subprocess.Popen[bytes]) -> int:
        try:
            return worker.wait(STOP_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            return worker.wait()


def wait(what: Callable[[], bool], timeout_s: float, pause_s: float = 0.2) -> bool:
    """Wait until something is so; tell whether it came to be."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
