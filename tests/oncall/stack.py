"""A whole deployment for tests: real Prometheus and Alertmanager around real processes on a real Kafka."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from grafana_double import GrafanaDouble
from rulebook import DEPLOY
from scaled import SCRAPE_S, scale_routes, scale_rules

import streams.samples
from sinks.metrics import catalogue
from sinks.metrics.instruments import Instruments
from sinks.metrics.server import serve
from sinks.signing import generate_key
from streams.bus.kafka import KafkaBus
from streams.localkafka import free_port
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Callable

    from sinks.metrics.definition import Component

PARTITIONS = 2
POLICY = DEPLOY / "policies" / "default"
STAND_INS: tuple[Component, ...] = ("reconcile", "revoker", "serving")
"""Processes that are not started here; this process shows their metrics, at 0 until a test says more."""
CANARY_EVERY_S = 5.0


@dataclass
class Notification:
    """One alert as a receiver got it."""

    receiver: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    time_s: float


@dataclass
class Stack:
    """Everything that runs."""

    folder: Path
    kafka: str
    divisor: float
    """What the rules' times are divided by."""
    notifications: list[Notification] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prefix = f"stack-{uuid4().hex[:8]}."
        self.bus = KafkaBus(self.kafka)
        self.grafana = GrafanaDouble()
        self.grafana.port = free_port()
        names = (
            "worker",
            "annotate",
            "canary",
            "lost-canary",
            "prometheus",
            "alertmanager",
            "receiver",
            *STAND_INS,
        )
        self.ports = {name: free_port() for name in names}
        self.stand_ins = {name: Instruments(name) for name in STAND_INS}
        self.stand_ins["reconcile"].set(catalogue.AUDIT_VERIFIED, time.time_ns() / 1e9)
        key = self.folder / "signing.pem"
        generate_key(key)
        self.environ = os.environ | {
            "MODELWARDEN_KAFKA": self.kafka,
            "MODELWARDEN_TOPIC_PREFIX": self.prefix,
            "MODELWARDEN_CONSUMER_GROUP": f"{self.prefix}group",
            "MODELWARDEN_SNAPSHOT_INTERVAL_S": "1",
            "MODELWARDEN_METRICS__ENABLED": "true",
            "MODELWARDEN_METRICS__PORT": str(self.ports["worker"]),
            "MODELWARDEN_REFERENCES_PATH": str(Path(str(streams.samples.__file__)).parent),
            "MODELWARDEN_SIGNING_KEY_FILE": str(key),
            "MODELWARDEN_POLICY_FILE": str(self._write_policy()),
            "MODELWARDEN_TRACING__ENDPOINT": "http://127.0.0.1:1/v1/traces",  # nobody there
            "MODELWARDEN_GRAFANA_URL": f"http://127.0.0.1:{self.grafana.port}",
            "MODELWARDEN_GRAFANA_TOKEN": "token",
        }

    def _write_policy(self) -> Path:
        """Write down the shipped policy in mode enforce, with a breaker that lets no key be cut off."""
        folder = self.folder / "policy"
        shutil.copytree(POLICY, folder)
        head = folder / "policy.yaml"
        text = head.read_text()
        changed = text.replace("mode: observe", "mode: enforce").replace("max_keys: 100", "max_keys: 0")
        assert "\nmode: enforce\n" in changed
        assert "max_keys: 0" in changed
        head.write_text(changed.replace("holdout_share: 0.01", "holdout_share: 0"))
        return folder

    def start(self) -> None:
        """Start everything, and wait until the worker is ready."""
        create_topics(self.kafka, prefix=self.prefix, partitions=PARTITIONS)
        self.grafana.__enter__()
        self._stops = [
            serve(made.registry, "127.0.0.1", self.ports[name], {}) for name, made in self.stand_ins.items()
        ]
        self._receive()
        self.call("policy", "push", self.environ["MODELWARDEN_POLICY_FILE"], "--reason", "a small limit")
        self.run("worker", "worker")
        self.run("annotate", "annotate", "--spool", str(self.folder / "spool.db"))
        self.run("canary", "canary", "--model", "mnist", "--every", str(CANARY_EVERY_S))
        for name in ("worker", "annotate", "canary"):
            self.wait(partial(self.probe, name, "/readyz"), 120, f"{name} is not ready")
        # Last, for with quick rules the start of the others would look like trouble.
        self._start_prometheus()

    def run(self, name: str, *words: str) -> None:
        """Start a command of modelwarden."""
        options = [] if name == "worker" else ["--metrics-port", str(self.ports[name])]
        command = [sys.executable, "-c", "from streams.cli import main; main()", *words, *options]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log)

    def call(self, *words: str) -> None:
        """Run a command of modelwarden to its end."""
        command = [sys.executable, "-c", "from streams.cli import main; main()", *words]
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def stop(self) -> None:
        """Stop everything."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._receiver.shutdown()
        self._receiver.server_close()
        self.grafana.__exit__()
        for stop in self._stops:
            stop()
        self.bus.close()

    def send(self, topic: str, value: bytes, key: str) -> None:
        """Put a record on a topic."""
        self.bus.send(self.prefix + topic, value, key=key.encode())

    def probe(self, name: str, path: str) -> bool:
        """Whether a process answers a probe with yes."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expr: str, *, range_s: int = 0, step_s: int = 1) -> list[dict[str, Any]]:
        """What Prometheus answers: now, or over the last so many seconds."""
        now_s = time.time_ns() / 1e9
        given: dict[str, Any] = {"query": expr}
        if range_s:
            given |= {"start": now_s - range_s, "end": now_s, "step": step_s}
        words = urllib.parse.urlencode(given)
        path = "query_range" if range_s else "query"
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/{path}?{words}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def told(self, alert: str, status: str = "firing") -> list[Notification]:
        """The notifications of an alert."""
        name = f"Modelwarden{alert}"
        return [n for n in list(self.notifications) if n.labels["alertname"] == name and n.status == status]

    def wait(self, what: Callable[[], object], timeout_s: float, why: str) -> None:
        """Wait until something is so."""
        deadline_s = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > deadline_s:
                raise AssertionError(f"{why}\n{self.state()}")
            time.sleep(0.2)

    def state(self) -> str:
        """What was notified, and the end of each log: for whoever reads that a test failed."""
        lines = [f"{n.status} {n.labels['alertname']} -> {n.receiver}" for n in self.notifications]
        for name in self.processes:
            lines += [f"--- {name}", *(self.folder / f"{name}.log").read_text().splitlines()[-6:]]
        return "\n".join(lines)[-6000:]

    def _start_prometheus(self) -> None:
        ports = self.ports
        own = {"worker": "worker", "annotate": "annotate", "canary": "canary", "lost-canary": "canary"}
        jobs: dict[str, list[str]] = {}
        for name, job in (own | {name: name for name in STAND_INS}).items():
            if name != "lost-canary":
                jobs.setdefault(f"modelwarden-{job}", []).append(f"127.0.0.1:{ports[name]}")
        scrapes = [{"job_name": job, "static_configs": [{"targets": to}]} for job, to in jobs.items()]
        # Only while a test runs it: a target that is not there yet would be a companion that is down.
        lost = {
            "job_name": "lost",
            "file_sd_configs": [{"files": [str(self.folder / "lost.json")], "refresh_interval": "1s"}],
        }
        config = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [str(self.folder / "rules.json")],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{ports['alertmanager']}"]}]}]
            },
            "scrape_configs": [*scrapes, lost],
        }
        receiver = f"http://127.0.0.1:{ports['receiver']}"
        for name, document in (
            ("rules", scale_rules(self.divisor)),
            ("prometheus", config),
            ("alertmanager", scale_routes(self.divisor, receiver)),
        ):
            (self.folder / f"{name}.json").write_text(json.dumps(document))
        self._start_program(
            "prometheus",
            [
                f"--config.file={self.folder / 'prometheus.json'}",
                f"--storage.tsdb.path={self.folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
                f"--rules.alert.resend-delay={max(round(60 / self.divisor), 1)}s",
            ],
        )
        self._start_program(
            "prometheus-alertmanager",
            [
                f"--config.file={self.folder / 'alertmanager.json'}",
                f"--storage.path={self.folder / 'alerts'}",
                f"--web.listen-address=127.0.0.1:{ports['alertmanager']}",
                "--cluster.listen-address=",
            ],
        )
        for name in ("prometheus", "alertmanager"):
            self.wait(partial(self.probe, name, "/-/ready"), 60, f"{name} is not ready")

    def _start_program(self, name: str, options: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen([name, *options], stdout=log, stderr=log)

    def _receive(self) -> None:
        """Take notifications at `/<receiver>`."""
        stack = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    stack.notifications.append(
                        Notification(
                            self.path.strip("/"),
                            alert["status"],
                            alert["labels"],
                            alert["annotations"],
                            time.monotonic(),
                        )
                    )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._receiver = http.server.ThreadingHTTPServer(("127.0.0.1", self.ports["receiver"]), Handler)
        threading.Thread(target=self._receiver.serve_forever, daemon=True).start()
