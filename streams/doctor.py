"""Is everything there that a worker needs? One check a concern; each says what it found and what to do.

Nothing is changed anywhere, and nothing waits longer than a few seconds, reachable or not.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import stat
import sys
import threading
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from streams.bus.base import BusError
from streams.clock import SystemClock
from streams.errors import ModelwardenError
from streams.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from streams.clock import Clock

Status = Literal["ok", "warn", "fail"]

PYTHON_MINIMUM = (3, 11)
PYTHON_BELOW = (3, 14)
CONNECT_TIMEOUT_S = 3.0
BUS_TIMEOUT_S = 4.0
EARLIEST_CLOCK_MS = 1_767_225_600_000
"""2026-01-01: this program is younger than any clock before."""
PRIVATE_MODE = 0o600


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found."""

    check: str
    status: Status
    finding: str
    do: str = ""
    """What to do about it; empty if nothing."""


def examine(
    settings_file: Path | None, environ: Mapping[str, str], clock: Clock | None = None
) -> list[Check]:
    """Run every check, in an order in which the first failure explains the later ones.

    Parameters
    ----------
    settings_file : Path, optional
    environ : mapping of str to str
        The environment, which overrides the file.
    clock : Clock, optional
        The machine's own if not given.
    """
    checks = [check_python(), check_packages(), check_kernels(), *check_programs()]
    try:
        settings = load_settings(settings_file, environ)
    except ModelwardenError as error:
        return [*checks, failed("settings", error)]
    source = f"file {settings_file}" if settings_file else "defaults and environment"
    checks.append(Check(check="settings", status="ok", finding=f"from {source}"))
    checks += [check_memory(settings), check_policy(settings), check_signing_key(settings)]
    checks.append(check_references(settings))
    checks += [check_security(settings), check_broker(settings.kafka)]
    if not any(check.status == "fail" for check in checks[-2:]):
        checks.append(check_topics(settings))
    # A broker that failed is not asked again: that would only take longer.
    checks.append(check_clock(settings, clock or SystemClock(), ask=checks[-1].status == "ok"))
    return checks


def failed(check: str, error: ModelwardenError) -> Check:
    """Turn an error into a failed check."""
    return Check(check=check, status="fail", finding=f"{error.what}: {error.why}", do=error.do)


def check_python() -> Check:
    """Compare the interpreter with what the package supports."""
    found = f"Python {platform.python_version()} at {sys.executable}"
    if PYTHON_MINIMUM <= sys.version_info[:2] < PYTHON_BELOW:
        return Check(check="python", status="ok", finding=found)
    return Check(check="python", status="fail", finding=found, do="Use Python 3.11, 3.12 or 3.13")


def check_packages() -> Check:
    """Import Faust and aiokafka, of which the batch consumer reaches into the inside."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from streams.faustbatch import shapes  # noqa: PLC0415 - fails at import if a shape is wrong
    except (ModelwardenError, ImportError) as error:
        do = "Install the pinned versions: pip install --force-reinstall modelwarden"
        return Check(check="packages", status="fail", finding=" ".join(str(error).split()), do=do)
    found = ", ".join(f"{package} {version(package)}" for package in shapes.VERSIONS)
    return Check(check="packages", status="ok", finding=f"{found}: of the shapes relied on")


def check_kernels() -> Check:
    """Import the numba kernels, and see whether their machine code is kept."""
    try:
        from detectors import engine, keylevel  # noqa: F401, PLC0415 - slow, and this is the check
    except (RuntimeError, ImportError) as error:
        do = "Set NUMBA_CACHE_DIR to a folder that this user may write to"
        return Check(check="kernels", status="fail", finding=" ".join(str(error).split()), do=do)
    cache = Path(keylevel.standardise.stats.cache_path)
    if not os.access(cache if cache.exists() else cache.parent, os.W_OK):
        do = "Set NUMBA_CACHE_DIR to a folder that this user may write to; every start compiles until then"
        return Check(check="kernels", status="warn", finding=f"{cache} cannot be written to", do=do)
    count = len(list(cache.glob("*.nbi")))
    found = f"{count} compiled" if count else "not compiled yet, which makes the first start take a minute"
    return Check(check="kernels", status="ok", finding=f"{found}; cache {cache}")


def check_memory(settings: Settings) -> Check:
    """Compare what the key tables can grow to, with every partition here, with the machine's memory."""
    from detectors.keystate import FIELDS  # noqa: PLC0415 - brings numba
    from detectors.keytable import memory_estimate_bytes  # noqa: PLC0415 - same
    from detectors.slabs import slot_bytes  # noqa: PLC0415 - same
    from streams.topics import DEFAULT_PARTITIONS  # noqa: PLC0415 - brings kafka-python

    keys, a_key = settings.engine.hot_keys, slot_bytes(FIELDS)
    needed_gb = DEFAULT_PARTITIONS * memory_estimate_bytes(keys, a_key) / 1e9
    there_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found = (
        f"at most {needed_gb:.1f} GB for {DEFAULT_PARTITIONS} partitions of {keys:,} keys, "
        f"{a_key:,} bytes each; this machine has {there_gb:.1f} GB"
    )
    if needed_gb < 0.8 * there_gb:
        return Check(check="memory", status="ok", finding=found)
    do = "Lower engine.hot_keys, or spread the partitions over more workers"
    return Check(check="memory", status="warn", finding=found, do=do)


def check_programs() -> Iterator[Check]:
    """Look for what only `modelwarden kafka up` needs."""
    from streams.localkafka import LocalKafkaError, find_java  # noqa: PLC0415 - brings kafka-python

    optional = "needed by `modelwarden kafka up` only"
    try:
        yield Check(check="java", status="ok", finding=find_java())
    except LocalKafkaError as error:
        yield Check(check="java", status="warn", finding=f"{error.why}; {optional}", do=error.do)
    maven = shutil.which("mvn")
    if maven:
        yield Check(check="maven", status="ok", finding=maven)
    else:
        do = "Install Maven (Debian: apt install maven), or use a Kafka of your own"
        yield Check(check="maven", status="warn", finding=f"there is no mvn on the PATH; {optional}", do=do)


def check_policy(settings: Settings) -> Check:
    """Read the policy, and see whether its mode can sign."""
    from sinks.policyfile import load_policy  # noqa: PLC0415 - like the other checks, on its own

    try:
        policy = load_policy(settings.policy_file, settings.policy_mode)
    except ModelwardenError as error:
        return failed("policy", error)
    found = f"{policy.policy_version}, mode {policy.mode}, {len(policy.rules)} rules"
    if policy.mode != "observe" and settings.signing_key_file is None:
        do = "Set signing_key_file to a key made by `modelwarden policy keygen FILE`, or use mode observe"
        return Check(check="policy", status="fail", finding=f"{found}, and no key to sign commands", do=do)
    return Check(check="policy", status="ok", finding=found)


def check_signing_key(settings: Settings) -> Check:
    """Read the signing key, and see who else may."""
    from sinks.signing import load_signer  # noqa: PLC0415 - brings cryptography

    path = settings.signing_key_file
    if path is None:
        return Check(check="signing key", status="ok", finding="none; mode observe needs none")
    try:
        signer = load_signer(path)
    except ModelwardenError as error:
        return failed("signing key", error)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & ~PRIVATE_MODE:
        found = f"{path} has mode {mode:04o}: others than its owner may use it"
        return Check(check="signing key", status="warn", finding=found, do=f"Run `chmod 600 {path}`")
    return Check(check="signing key", status="ok", finding=f"{path}, key id {signer.key_id}")


def check_references(settings: Settings) -> Check:
    """Read the references."""
    path = settings.references_path
    if path is None:
        found = "none: every model learns from its own traffic before it alerts"
        return Check(check="references", status="ok", finding=found)
    from streams.pipeline import load_references  # noqa: PLC0415 - brings numba

    try:
        references = load_references(path)
    except ModelwardenError as error:
        return failed("references", error)
    return Check(check="references", status="ok", finding=f"for {', '.join(sorted(references))} in {path}")


def check_security(settings: Settings) -> Check:
    """Read the files of TLS and SASL, and shake hands with the first broker; its password comes later."""
    security = settings.kafka_security
    found = f"protocol {security.protocol}"
    if security.protocol.startswith("sasl"):
        found += f", {security.sasl_mechanism} as {security.user}"
    try:
        security.client_arguments()
    except ModelwardenError as error:
        return failed("security", error)
    why = security.explain(settings.kafka)
    if why is not None:
        do = "See kafka_security in `modelwarden settings describe`"
        return Check(check="security", status="fail", finding=f"{found}: {why}", do=do)
    if security.protocol == "sasl_plaintext" and security.sasl_mechanism == "PLAIN":
        do = "Use protocol sasl_ssl, or a mechanism SCRAM"
        return Check(check="security", status="warn", finding=f"{found}: the password goes in clear", do=do)
    return Check(check="security", status="ok", finding=found)


def check_broker(kafka: str) -> Check:
    """Connect to every address, all at once."""
    addresses = kafka.split(",")
    outcomes: dict[str, str | None] = {}
    threads = [
        threading.Thread(target=_connect, args=(address, outcomes), daemon=True) for address in addresses
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(CONNECT_TIMEOUT_S + 1.0)
    wrong = {
        address: outcomes.get(address, "its name could not be resolved in time") for address in addresses
    }
    found = "; ".join(f"{address} {why or 'answers'}" for address, why in wrong.items())
    bad = [address for address, why in wrong.items() if why]
    if not bad:
        return Check(check="broker", status="ok", finding=found)
    do = (
        f"Check that a broker runs at {bad[0]} and no firewall stands between; correct the address by "
        "setting `kafka` or MODELWARDEN_KAFKA=host:port; or start one with `modelwarden kafka up`"
    )
    return Check(
        check="broker", status="fail" if len(bad) == len(addresses) else "warn", finding=found, do=do
    )


def _connect(address: str, outcomes: dict[str, str | None]) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S):
            outcomes[address] = None
    except TimeoutError:
        outcomes[address] = f"does not answer within {CONNECT_TIMEOUT_S:g} s"
    except socket.gaierror as error:
        outcomes[address] = f"is no known host ({error.strerror})"
    except (OSError, OverflowError) as error:
        outcomes[address] = f"cannot be reached ({getattr(error, 'strerror', None) or error})"


def check_topics(settings: Settings) -> Check:
    """Compare the topics with what they must be."""
    from streams import topics  # noqa: PLC0415 - brings kafka-python

    try:
        reports = topics.check_topics(
            settings.kafka, security=settings.kafka_security, prefix=settings.topic_prefix
        )
    except ModelwardenError as error:
        return failed("topics", error)
    wrong = [report for report in reports if not report.ok]
    if not wrong:
        partitions = reports[0].finding
        return Check(
            check="topics", status="ok", finding=f"{len(reports)} topics; {reports[0].topic} has {partitions}"
        )
    names = ", ".join(report.topic for report in wrong[:3]) + (", ..." if len(wrong) > 3 else "")
    found = f"{len(wrong)} of {len(reports)} are wrong ({names}); {wrong[0].topic}: {wrong[0].finding}"
    do = "Run `modelwarden topics check` for all of them, `modelwarden topics create` to make those missing"
    return Check(check="topics", status="fail", finding=found, do=do)


def check_clock(settings: Settings, clock: Clock, *, ask: bool) -> Check:
    """Compare the clock with the newest record on the events topic, which a broker or a producer stamped."""
    now_ms = clock.now_ms()
    if now_ms < EARLIEST_CLOCK_MS:
        found = "this machine's clock stands before 2026"
        return Check(
            check="clock", status="fail", finding=found, do="Set the clock (chrony or systemd-timesyncd)"
        )
    newest_ms = _quietly(lambda: _newest_ms(settings)) if ask else None
    if newest_ms is None:
        found = "plausible; no record on the events topic to compare it with"
        return Check(check="clock", status="ok", finding=found)
    ahead_s = (newest_ms - now_ms) / 1000
    if ahead_s > 60:
        found = f"the newest event was sent {ahead_s:,.0f} s after this machine's now"
        do = (
            f"Set the clock here or at the producers; events over {settings.max_ahead_s:g} s ahead "
            "are refused"
        )
        return Check(check="clock", status="warn", finding=found, do=do)
    return Check(
        check="clock", status="ok", finding=f"the newest event was sent {max(-ahead_s, 0):,.0f} s ago"
    )


def _newest_ms(settings: Settings) -> int | None:
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - brings kafka-python

    topic = settings.topic("events")
    bus = KafkaBus(settings.kafka, timeout_s=BUS_TIMEOUT_S, security=settings.kafka_security)
    try:
        ends = bus.end_offsets(topic)
        start = {(topic, partition): max(end - 1, 0) for partition, end in ends.items()}
        times = [message.time_ms for batch in bus.read([topic], start=start) for message in batch]
    finally:
        bus.close()
    return max(times, default=None)


def _quietly(ask: Callable[[], int | None]) -> int | None:
    """Return None where the broker cannot tell: the checks before say so already."""
    try:
        return ask()
    except BusError:
        return None
