"""One real Apache Kafka node on loopback, for trying out and for tests.

Maven copies the broker's jars into a cache directory once (`deploy/kafka/pom.xml` names them); the node runs
as a plain Java process whose data, configuration, log and process id stand in one run directory. It outlives
the process that started it: `LocalKafka.stop` in any later process finds it by its run directory.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from hashlib import blake2b
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Callable

HEAP = "512m"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
MAVEN_TIMEOUT_S = 900.0
MINIMUM_JAVA = 17


USE_YOURS = "or set MODELWARDEN_KAFKA=host:port to use a broker you have"


class LocalKafkaError(ModelwardenError):
    """The local node cannot be had."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a local node."""

    running: bool
    bootstrap: str | None
    """host:port for clients, or None if the node does not run."""
    pid: int | None
    run_dir: str


class SecureListeners(msgspec.Struct, frozen=True, kw_only=True):
    """What a node needs for clients over TLS, beside those in the clear."""

    certificate_file: Path
    """PEM: the node's private key, then its certificate for 127.0.0.1."""
    ca_file: Path
    """PEM: who may have signed the certificates of clients."""
    user: str
    password: str


class _Node(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the pid file."""

    pid: int
    start_ticks: int
    """When the kernel started the process; tells it from a later one with the same number."""
    broker_port: int


class LocalKafka:
    """A node in a run directory; starting one that runs is harmless.

    Parameters
    ----------
    run_dir : Path
        Holds data, configuration, log and pid file; made if missing.
    port : int
        Port for clients on 127.0.0.1; 0 takes a free one.
    tell : callable
        Receives progress as text, one line a call.
    secure : SecureListeners, optional
        Listen for clients with a certificate at `ssl_address`, and for those with a password at
        `sasl_address` too.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        port: int = 0,
        tell: Callable[[str], None] = lambda _: None,
        secure: SecureListeners | None = None,
    ) -> None:
        self.ssl_address = f"127.0.0.1:{free_port()}"
        self.sasl_address = f"127.0.0.1:{free_port()}"
        self._secure = secure
        self.run_dir = run_dir.resolve()
        self._port = port
        self._tell = tell
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        """The node's own output."""
        return self.run_dir / "kafka.log"

    def start(self) -> str:
        """Start the node, wait until it answers, return its address.

        Raises
        ------
        LocalKafkaError
            If Java or Maven is missing, the jars cannot be fetched, the port is taken or the node fails.
        """
        running = self.status()
        if running.bootstrap is not None:
            return running.bootstrap
        java = find_java()
        jars = fetch_jars(self._tell)
        if self._port and _is_open(self._port):
            raise LocalKafkaError(
                f"port {self._port} on 127.0.0.1",
                "it is in use by another program",
                "Stop that program, or choose another port with --port",
            )
        port = self._port or free_port()
        config = self._configure(java, jars, port)
        self._tell(f"starting Apache Kafka on 127.0.0.1:{port}")
        node = self._launch(java, jars, config, port)
        self._wait_until_ready(node)
        return f"127.0.0.1:{port}"

    def stop(self) -> bool:
        """Stop the node and wait until it is gone; False if none ran. Data stays."""
        node = self._read_node()
        if node is None:
            return False
        os.kill(node.pid, signal.SIGTERM)
        if not _wait(lambda: not _is_alive(node), STOP_TIMEOUT_S):
            os.kill(node.pid, signal.SIGKILL)
            _wait(lambda: not _is_alive(node), STOP_TIMEOUT_S)
        if self._child is not None:
            self._child.wait()
        self._pid_file.unlink(missing_ok=True)
        return True

    def status(self) -> Status:
        """Look whether the node runs."""
        node = self._read_node()
        return Status(
            running=node is not None,
            bootstrap=None if node is None else f"127.0.0.1:{node.broker_port}",
            pid=None if node is None else node.pid,
            run_dir=str(self.run_dir),
        )

    @property
    def _pid_file(self) -> Path:
        return self.run_dir / "kafka.pid"

    def _read_node(self) -> _Node | None:
        try:
            node = msgspec.json.decode(self._pid_file.read_bytes(), type=_Node)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise LocalKafkaError(str(self._pid_file), f"it is damaged ({error})", "Delete it") from error
        return node if _is_alive(node) else None

    def _configure(self, java: str, jars: Path, port: int) -> Path:
        """Write the node's configuration, and format its storage if it is new."""
        data_dir = self.run_dir / "data"
        data_dir.mkdir(parents=True, exist_ok=True)
        text = files("deploy").joinpath("kafka/server.properties").read_text(encoding="utf-8")
        ports = {"broker_port": port, "controller_port": free_port()}
        for name, value in {**ports, "data_dir": data_dir}.items():
            text = text.replace(f"{{{name}}}", str(value))
        if self._secure is not None:
            text = self._add_listeners(text, self._secure)
        config = self.run_dir / "server.properties"
        config.write_text(text, encoding="utf-8")
        if not (data_dir / "meta.properties").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            # With `=`: an id may begin with a dash, which would be read as another option.
            tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(config)]
            if self._secure is not None:
                who = f"name={self._secure.user},password={self._secure.password}"
                tool += [f"--add-scram=SCRAM-SHA-{size}=[{who}]" for size in (256, 512)]
            _run([java, "-cp", f"{jars}/*", *tool], "formatting Kafka's storage", 60.0)
        return config

    def _add_listeners(self, text: str, secure: SecureListeners) -> str:
        more = f",SSL://{self.ssl_address},SASL_SSL://{self.sasl_address}"
        text = re.sub(r"^((?:advertised\.)?listeners=.*)$", rf"\1{more}", text, flags=re.MULTILINE)
        text = text.replace("CONTROLLER:PLAINTEXT,", "CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,")
        login = "org.apache.kafka.common.security"
        users = f'username="{secure.user}" password="{secure.password}"'
        plain = f'{login}.plain.PlainLoginModule required {users} user_{secure.user}="{secure.password}";'
        scram = f"{login}.scram.ScramLoginModule required;"
        return text + "\n".join([
            "", "ssl.keystore.type=PEM", f"ssl.keystore.location={secure.certificate_file}",
            "ssl.truststore.type=PEM", f"ssl.truststore.location={secure.ca_file}",
            "listener.name.ssl.ssl.client.auth=required",
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            f"listener.name.sasl_ssl.plain.sasl.jaas.config={plain}",
            *(f"listener.name.sasl_ssl.scram-sha-{size}.sasl.jaas.config={scram}" for size in (256, 512)), "",
        ])  # fmt: skip

    def _launch(self, java: str, jars: Path, config: Path, port: int) -> _Node:
        options = [f"-Xmx{HEAP}", f"-Xms{HEAP}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command = [java, *options, "-cp", f"{jars}/*", "kafka.Kafka", str(config)]
        with self.log_file.open("ab") as log:
            process = self._child = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        node = _Node(pid=process.pid, start_ticks=_start_ticks(process.pid) or 0, broker_port=port)
        self._pid_file.write_bytes(msgspec.json.encode(node))
        return node

    def _wait_until_ready(self, node: _Node) -> None:
        ready = _wait(lambda: not _is_alive(node) or _answers(node.broker_port), START_TIMEOUT_S)
        if ready and _is_alive(node):
            return
        why = "did not answer in time" if _is_alive(node) else "stopped while starting"
        self.stop()
        last = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        said = f"; its last words: {last[0]}" if last else ""
        raise LocalKafkaError("the local Kafka", why + said, f"Read {self.log_file}, then try again")


def find_java() -> str:
    """Return the path of a Java that can run the broker. Raises LocalKafkaError."""
    java = shutil.which("java")
    do = f"Install Java {MINIMUM_JAVA} or later (Debian: apt install default-jre-headless), {USE_YOURS}"
    if java is None:
        raise LocalKafkaError("Java", "there is no java on the PATH", do)
    told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - found on the PATH
    version = re.search(r'version "(\d+)', told.stderr + told.stdout)
    if version and int(version[1]) < MINIMUM_JAVA:
        raise LocalKafkaError(f"Java at {java}", f"version {version[1]} is too old for Kafka", do)
    return java


def fetch_jars(tell: Callable[[str], None]) -> Path:
    """Return the directory of the broker's jars; Maven fills it the first time.

    Raises
    ------
    LocalKafkaError
        If Maven is missing or fails.
    """
    pom = files("deploy").joinpath("kafka/pom.xml")
    name = blake2b(pom.read_bytes(), digest_size=6).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelwarden"
    jars = cache / f"kafka-{name}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise LocalKafkaError(
            "Maven",
            "there is no mvn on the PATH, and Kafka's jars are not in the cache",
            f"Install Maven (Debian: apt install maven), {USE_YOURS}",
        )
    tell("fetching Apache Kafka with Maven (about 45 MB, once)")
    partial = cache / f"kafka-{name}.{os.getpid()}"
    with as_file(pom) as path:
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={partial}", "-DincludeScope=runtime"]
        _run([maven, "-B", "-q", "-f", str(path), *goal], "fetching Apache Kafka with Maven", MAVEN_TIMEOUT_S)
    with contextlib.suppress(OSError):  # another process was faster: its jars are the same
        partial.rename(jars)
    shutil.rmtree(partial, ignore_errors=True)
    return jars


def free_port() -> int:
    """Return a TCP port that nobody listens on at 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(command: list[str], what: str, timeout_s: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603 - our own arguments, no shell
    except subprocess.TimeoutExpired as error:
        raise LocalKafkaError(
            what, f"it took longer than {timeout_s:.0f} s", "Check the network, try again"
        ) from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or [
            "it said nothing"
        ]
        wrong = next((line for line in said if "ERROR" in line or "rror:" in line), said[-1])
        raise LocalKafkaError(what, wrong.strip(), f"Run it by hand to see more: {' '.join(command)}")


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(port: int) -> bool:
    """Tell whether the broker serves clients: an open port alone comes seconds too early."""
    if not _is_open(port):
        return False
    from kafka import KafkaAdminClient  # noqa: PLC0415 - slow to import, and needed only while starting
    from kafka.errors import KafkaError  # noqa: PLC0415 - same

    client: Any = None
    try:
        client = KafkaAdminClient(
            bootstrap_servers=f"127.0.0.1:{port}", bootstrap_timeout_ms=3000, request_timeout_ms=3000
        )
        return len(client.describe_cluster()["brokers"]) > 0
    except KafkaError:
        return False
    finally:
        if client is not None:
            client.close()


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat, or None if no such process lives (a zombie does not)."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _is_alive(node: _Node) -> bool:
    return _start_ticks(node.pid) == node.start_ticks


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
