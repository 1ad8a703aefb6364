"""Clients reach real brokers over TLS, with a certificate or a password; mistakes are told in one line."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sinks.kafkasecurity import KafkaSecurity, KafkaSecurityError
from sinks.serving.emitter import Emitter
from sinks.serving.follower import TopicFollower
from sinks.serving.outlet import Outlet
from streams.bus.kafka import KafkaBus
from streams.cli import main
from streams.clock import SystemClock
from streams.localkafka import LocalKafka, SecureListeners
from streams.recovery import committed_offsets

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, PASSWORD = "warden", "correct-horse-battery"
MODELWARDEN = Path(sys.executable).with_name("modelwarden")
EVENTS = 2000


def make_certificates(folder: Path) -> None:
    """Write two authorities, `ca.pem` and `other.pem`, and by the first `broker.pem` and `client.pem`."""
    for authority in ("ca", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        signed = certify(authority, key, authority, key)
        (folder / f"{authority}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        for name in ("broker", "client") if authority == "ca" else ("stranger",):
            own = ec.generate_private_key(ec.SECP256R1())
            certificate = certify(name, own, authority, key)
            secret = own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            public = certificate.public_bytes(serialization.Encoding.PEM)
            (folder / f"{name}.pem").write_bytes(secret + public)


def certify(subject: str, key: Any, issuer: str, issuer_key: Any) -> x509.Certificate:
    now = dt.datetime.fromtimestamp(SystemClock().now_ms() / 1000, dt.UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=subject == issuer, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("secure")
    make_certificates(made)
    (made / "password").write_text(PASSWORD + "\n")
    (made / "wrong").write_text("wrong\n")
    (made / "empty").write_text("\n")
    return made


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[LocalKafka]:
    if shutil.which("java") is None or shutil.which("mvn") is None:
        pytest.skip("no java or no mvn on the PATH: no real Kafka with TLS")
    secure = SecureListeners(
        certificate_file=folder / "broker.pem", ca_file=folder / "ca.pem", user=USER, password=PASSWORD
    )
    made = LocalKafka(folder / "kafka", secure=secure)
    made.start()
    yield made
    made.stop()


def variables(node: LocalKafka, folder: Path, way: str, **other: str) -> dict[str, str]:
    """Return the environment of a client: `ssl`, or a mechanism of SASL."""
    given = {"ca_file": str(folder / "ca.pem"), "protocol": "ssl" if way == "ssl" else "sasl_ssl"}
    if way == "ssl":
        given["certificate_file"] = str(folder / "client.pem")
    else:
        given |= {"sasl_mechanism": way, "user": USER, "password_file": str(folder / "password")}
    given |= other
    return {
        "MODELWARDEN_KAFKA": node.ssl_address if way == "ssl" else node.sasl_address,
        "MODELWARDEN_TOPIC_PREFIX": f"{way}.",
        **{f"MODELWARDEN_KAFKA_SECURITY__{name.upper()}": value for name, value in given.items()},
    }


def security(environ: dict[str, str]) -> KafkaSecurity:
    prefix = "MODELWARDEN_KAFKA_SECURITY__"
    given = {k.removeprefix(prefix).lower(): v for k, v in environ.items() if k.startswith(prefix)}
    return msgspec.convert(given, KafkaSecurity, dec_hook=lambda _, text: Path(text))


def run(words: str, environ: dict[str, str]) -> Any:
    return CliRunner().invoke(main, words.split(), env=environ)


@pytest.mark.kafka
@pytest.mark.parametrize("way", ["ssl", "PLAIN", "SCRAM-SHA-256"])
def test_commands_work_over_tls(node: LocalKafka, folder: Path, way: str) -> None:
    environ = variables(node, folder, way)
    made = run("topics create --partitions 2", environ)
    assert made.exit_code == 0, made.output
    address = environ["MODELWARDEN_KAFKA"]
    sent = run(f"simulate --events 300 --to kafka://{address}/{way}.events", environ)
    assert sent.exit_code == 0, sent.output
    bus = KafkaBus(address, security=security(environ))
    assert sum(len(batch) for batch in bus.read([f"{way}.events"])) == 300
    bus.close()
    doctor = run("doctor -o json", environ)
    assert doctor.exit_code == 0, doctor.output
    assert PASSWORD not in doctor.output
    assert PASSWORD not in run("settings show -o json", environ).output
    listed = run(f"alerts list --kafka {address}", environ)
    assert listed.exit_code == 0, listed.output


@pytest.mark.kafka
def test_a_worker_reads_writes_and_keeps_its_place_over_tls(node: LocalKafka, folder: Path) -> None:
    way = "SCRAM-SHA-512"
    environ = variables(node, folder, way) | {"MODELWARDEN_TOPIC_PREFIX": f"worker-{way}."}
    address, topic = environ["MODELWARDEN_KAFKA"], f"worker-{way}.events"
    assert run("topics create --partitions 1", environ).exit_code == 0
    assert run(f"simulate --events {EVENTS} --to kafka://{address}/{topic}", environ).exit_code == 0
    log = folder / f"worker-{way}.log"
    with log.open("wb") as file:
        worker = subprocess.Popen([MODELWARDEN, "worker"], env={**os.environ, **environ}, stderr=file)
    try:
        deadline = time.monotonic() + 120
        while committed(address, topic, security(environ)) != EVENTS:
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, log.read_text()
    assert PASSWORD not in log.read_text()


def committed(address: str, topic: str, how: KafkaSecurity) -> int | None:
    found = asyncio.run(committed_offsets(address, "modelwarden", [(topic, 0)], security=how))
    return found[topic, 0]


@pytest.mark.kafka
def test_serving_clients_work_over_tls(node: LocalKafka, folder: Path) -> None:
    environ = variables(node, folder, "ssl") | {"MODELWARDEN_TOPIC_PREFIX": "serving."}
    assert run("topics create --partitions 1", environ).exit_code == 0
    how, address = security(environ), node.ssl_address
    came = threading.Event()
    follower = TopicFollower(address, ["serving.acks"], lambda _: came.set(), security=how)
    outlet = Outlet(address, "serving.acks", security=how)
    emitter = Emitter(address, "serving.events", security=how)
    for part in (follower, outlet, emitter):
        part.start()
    outlet.put(b"k", b"{}")
    assert came.wait(30)
    for part in (emitter, outlet, follower):
        part.stop()
    assert (outlet.stored, outlet.dropped, follower.failures) == (1, 0, 0)


MISTAKES = {
    "a wrong authority": ("ssl", {"ca_file": "other.pem"}, "certificate is not trusted", "ca_file"),
    "a stranger": ("ssl", {"certificate_file": "stranger.pem"}, "no TLS with", "certificate_file"),
    "a wrong password": ("SCRAM-SHA-512", {"password_file": "wrong"}, "authentication of", "password_file"),
    "nobody's name": ("PLAIN", {"user": "nobody"}, "authentication of user nobody", "`user`"),
}
TOLD_BY = [*((what, "topics check") for what in MISTAKES), ("a wrong authority", "doctor"),
           ("a wrong password", "doctor"), ("a stranger", "alerts list --kafka")]  # fmt: skip


@pytest.mark.kafka
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("what", "words"), TOLD_BY)
def test_what_is_wrong_is_told(node: LocalKafka, folder: Path, what: str, words: str) -> None:
    # kafka-python leaves sockets open that a broker refused, which the filter above lets pass.
    way, other, says, do = MISTAKES[what]
    environ = variables(
        node, folder, way, **{k: str(folder / v) if k != "user" else v for k, v in other.items()}
    )
    if words.endswith("--kafka"):
        words = f"{words} {environ['MODELWARDEN_KAFKA']}"
    result = run(words, environ)
    assert result.exit_code == 1, result.output
    said = result.output if words == "doctor" else result.stderr
    if words != "doctor":
        assert len(said.strip().splitlines()) == 1, said
    assert says in " ".join(said.split()), said
    assert do in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ca_file": "ca.pem"}, "no effect with protocol plaintext"),
        ({"protocol": "ssl", "user": "u"}, "kafka_security.user: it has no effect"),
        ({"protocol": "sasl_ssl", "user": "u"}, "kafka_security.password_file: protocol sasl_ssl needs it"),
        ({"protocol": "ssl", "key_file": "client.pem"}, "certificate_file is not set"),
        ({"protocol": "ssl", "ca_file": "none.pem"}, "none.pem: No such file"),
        ({"protocol": "ssl", "ca_file": "password"}, "password: it is no PEM file"),
        ({"protocol": "ssl", "certificate_file": "ca.pem"}, "ca.pem: it is no PEM file"),
        ({"protocol": "sasl_plaintext", "user": "u", "password_file": "empty"}, "it is empty"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_settings_that_cannot_work_are_refused(folder: Path, given: dict[str, str], says: str) -> None:
    paths = {k: str(folder / v) if k.endswith("_file") else v for k, v in given.items()}
    how = msgspec.convert(paths, KafkaSecurity, dec_hook=lambda _, text: Path(text))
    with pytest.raises(KafkaSecurityError) as raised:
        how.client_arguments()
    assert says in str(raised.value).replace(f"{folder}/", "")
