"""The processes of a whole deployment: started in order, watched, stopped whatever happens.

Everything a deployment needs is made in one folder: secrets, keys, settings, the reference, logs.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.error import URLError
from urllib.request import urlopen

from sinks.serving.keyref import key_reference
from sinks.signing import generate_key
from streams.errors import ModelwardenError
from streams.localkafka import free_port
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Callable

PARTITIONS = 4
_MAIN = "from streams.cli import main; main()"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
FIRST_EVENTS = 10


class LiveError(ModelwardenError):
    """A process of the deployment did not start, or ended before its time."""


class Deployment:
    """Worker, model server, revoker, reconcile loop and the provider's key store, on one broker.

    Parameters
    ----------
    kafka : str
        Address of a broker.
    prefix : str
        Of the topics.
    folder : Path
        Made if missing.
    revocation_failures : int
        So many orders the provider's key store answers with an error first.
    tell : callable
        Receives progress, one line a call.
    """

    def __init__(
        self,
        kafka: str,
        prefix: str,
        folder: Path,
        *,
        revocation_failures: int = 0,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kafka = kafka
        self.prefix = prefix
        self.folder = folder
        self.server_url = f"http://127.0.0.1:{free_port()}"
        self.store_url = f"http://127.0.0.1:{free_port()}"
        self.ports = {name: free_port() for name in ("worker", "revoker", "reconcile")}
        self._failures = revocation_failures
        self._tell = tell
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._secret = secrets.token_hex(32)
        self._webhook_secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

    def __enter__(self) -> Self:
        """Start everything."""
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self.stop()

    @property
    def environ(self) -> dict[str, str]:
        """The settings that the command line needs to reach the deployment."""
        return {
            "MODELWARDEN_KAFKA": self.kafka,
            "MODELWARDEN_TOPIC_PREFIX": self.prefix,
            "MODELWARDEN_CONSUMER_GROUP": f"{self.prefix}worker",
            "MODELWARDEN_SIGNING_KEY_FILE": str(self.folder / "signing.pem"),
            "MODELWARDEN_REFERENCES_PATH": str(self.folder / "digits.reference"),
            "MODELWARDEN_POLICY_FILE": str(files("streams.live").joinpath("policy")),
            "MODELWARDEN_SNAPSHOT_INTERVAL_S": "1",
        }

    def reference(self, api_key: str) -> str:
        """Return the reference of one of the clients' keys."""
        return key_reference(api_key, self._secret.encode())

    def log(self, name: str) -> str:
        """Return what a process has logged."""
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def command(self, *words: str) -> str:
        """Run the command line as a person would, and return what it prints. Raises LiveError."""
        done = subprocess.run(  # noqa: S603 - our own program, no shell
            [sys.executable, "-c", _MAIN, *words],
            env=_inherited() | self.environ,
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        if done.returncode:
            raise LiveError(f"modelwarden {words[0]}", done.stderr.strip(), f"Look into {self.folder}")
        return done.stdout

    def metrics(self, name: str) -> str:
        """Return what a process tells Prometheus."""
        with urlopen(f"http://127.0.0.1:{self.ports[name]}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def wait_until_detecting(self) -> None:
        """Wait until the worker has processed some events; somebody must be asking. Raises LiveError."""

        def processed() -> bool:
            found = re.search(r"^modelwarden_events_total (\S+)", self.metrics("worker"), re.MULTILINE)
            return found is not None and float(found[1]) >= FIRST_EVENTS

        self.wait(processed, "the worker's first events")

    def _prepare(self) -> None:
        from streams.live.traffic import learn_reference  # noqa: PLC0415 - numba takes seconds to load

        self._tell("learning what honest keys look like")
        (self.folder / "digits.reference").write_bytes(learn_reference().dump())
        generate_key(self.folder / "signing.pem")
        (self.folder / "key-secret").write_text(self._secret)
        (self.folder / "serving.yaml").write_text(
            f"model: digits\nkafka: {self.kafka}\ntopic_prefix: {self.prefix}\n"
            f"key_secret_file: {self.folder / 'key-secret'}\n"
            f"trusted_keys: {self.folder / 'signing.pem.pub'}\nname: serving-0\n"
            "contact: https://example.com/appeals\n"
        )
        self._tell("making the topics")
        create_topics(self.kafka, prefix=self.prefix, partitions=PARTITIONS)

    def _start(self) -> None:
        self._tell("starting the worker, the model server, the revoker and the reconcile loop")
        examples = Path(str(files("deploy"))) / "examples"
        public_key = str(self.folder / "signing.pem.pub")
        port = self.server_url.rpartition(":")[2]
        uvicorn = ["-m", "uvicorn", "--app-dir", str(examples / "fastapi"), "--port", port]
        self._spawn("server", *uvicorn, "--no-access-log", "app:app",
                    SERVING_SETTINGS=str(self.folder / "serving.yaml"))  # fmt: skip
        store_port = self.store_url.rpartition(":")[2]
        self._spawn("store", str(examples / "revocation" / "server.py"), "--port", store_port,
                    "--fail", str(self._failures), WEBHOOK_SECRET=self._webhook_secret)  # fmt: skip
        self._run("worker", "worker", MODELWARDEN_METRICS__ENABLED="true",
                  MODELWARDEN_METRICS__PORT=str(self.ports["worker"]))  # fmt: skip
        self._run("revoker", "revoker", "run", "--trusted-keys", public_key,
                  "--webhook", f"{self.store_url}/revocations", "--first-retry", "0.2",
                  "--outbox", str(self.folder / "revocations.sqlite"),
                  "--metrics-port", str(self.ports["revoker"]),
                  WEBHOOK_SECRET=self._webhook_secret)  # fmt: skip
        self._run("reconcile", "reconcile", "--trusted-keys", public_key, "--limit", "5",
                  "--metrics-port", str(self.ports["reconcile"]))  # fmt: skip
        for url in (f"{self.server_url}/openapi.json", f"{self.store_url}/revoked"):
            self.wait(lambda: _answers(url), f"an answer from {url}")  # noqa: B023 - called at once
        self.wait(lambda: "worker_ready" in self.log("worker"), "a ready worker")

    def _run(self, name: str, *words: str, **environ: str) -> None:
        self._spawn(name, "-c", _MAIN, *words, **environ)

    def _spawn(self, name: str, *arguments: str, **environ: str) -> None:
        """Start a Python program in the background, its output in a log of its own."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own programs, no shell
                [sys.executable, *arguments],
                env=_inherited() | self.environ | {"PYTHONFAULTHANDLER": "1"} | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def wait(self, what: Callable[[], object], name: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until something holds.

        Raises
        ------
        LiveError
            If it takes too long, or a process ends meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        while not what():
            self.check()
            if time.monotonic() > deadline:
                raise LiveError(
                    f"waiting for {name}", f"{timeout_s:.0f} s passed", f"Read {self.folder}/*.log"
                )
            time.sleep(0.02)

    def check(self) -> None:
        """See that every process runs. Raises LiveError."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                last = (self.log(name).strip().splitlines() or ["it said nothing"])[-1]
                path = self.folder / f"{name}.log"
                raise LiveError(
                    f"the {name}", f"it ended with code {process.returncode}: {last}", f"Read {path}"
                )

    def crash(self, name: str) -> None:
        """Have a process dump where it stands and die (SIGABRT with Python's fault handler)."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGABRT)
        process.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        """Stop every process; one that does not in time is killed."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._processes.clear()


def _inherited() -> dict[str, str]:
    """Our own environment without settings of another deployment."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MODELWARDEN_")}


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):  # noqa: S310 - http on loopback
            return True
    except (URLError, OSError):
        return False
