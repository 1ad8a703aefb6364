"""Forged commands by the million: none is obeyed, each is counted, and looking a key up stays as quick.

    python tests/bench/forged_commands.py [--count 1000000]

One thread applies forgeries as the enforcer does, while another looks keys up as requests do; before that,
the same lookups are measured with nothing else going on. A tenth of the forgeries name a trusted key, so that
their signature must be checked (a tenth of a millisecond each); the others name a stranger's, or are noise.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka.consumer.fetcher import ConsumerRecord

from sinks.records import Command
from sinks.serving.commands import CommandTable
from sinks.serving.enforcer import Enforcer
from sinks.signing import Signer
from sinks.trustedkeys import trust

NOW_MS = 1_763_900_000_000
KEYS = [f"k0-{number:032x}" for number in range(1_000)]
LOOKUPS = 200_000


def forge(signer: Signer, stranger: Signer) -> list[bytes]:
    """Make forgeries of every kind, ten of which are cycled through."""
    command = Command(
        command_id="a" * 32,
        action="revoke",
        key=KEYS[0],
        issued_ms=NOW_MS,
        expires_ms=NOW_MS + 3_600_000,
        rule="forged",
        policy_version="forged",
        alert_id="b" * 32,
        reason="forged",
        sequence=1,
    )
    unsigned = msgspec.json.encode(command)
    strangers = msgspec.json.encode(stranger.sign(command))
    named = msgspec.json.encode(msgspec.structs.replace(stranger.sign(command), signing_key_id=signer.key_id))
    return [named, *[strangers] * 4, *[unsigned] * 3, b"noise", b""]


def look_up(enforcer: Enforcer, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Look keys up at ten thousand a second or less; return microseconds."""
    spent = np.empty(count)
    for number in range(count):
        start = time.perf_counter_ns()
        enforcer.lookup(KEYS[number % len(KEYS)], "digits")
        spent[number] = time.perf_counter_ns() - start
        if number % 100 == 99:
            time.sleep(0.001)
    return spent / 1000


def show(what: str, spent: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Print a distribution."""
    p50, p99, p999 = np.percentile(spent, (50, 99, 99.9))
    print(f"{what:<28} p50 {p50:6.2f} us, p99 {p99:6.2f} us, p99.9 {p999:8.2f} us, of {len(spent):,}")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    count = parser.parse_args().count
    signer, stranger = (Signer(Ed25519PrivateKey.generate()) for _ in range(2))
    table = CommandTable(trust(signer))
    topics = ("commands", "allowlist")
    enforcer = Enforcer(
        table, kafka="127.0.0.1:1", topics=topics, name="bench", acknowledge=lambda _ack: None
    )
    forged = forge(signer, stranger)
    show("lookups, nothing else", look_up(enforcer, LOOKUPS))
    done = threading.Event()

    def flood() -> None:
        blank = [None] * (len(ConsumerRecord._fields) - 1)
        records = [ConsumerRecord("commands", *blank)._replace(value=value) for value in forged]
        started = time.perf_counter()
        for number in range(count):
            enforcer._take(records[number % len(records)])
            if number % 100_000 == 99_999:
                print(f"{number + 1:,} forged commands, {time.perf_counter() - started:.0f} s", flush=True)
        done.set()

    thread = threading.Thread(target=flood)
    thread.start()
    during = []
    while not done.is_set():
        during.append(look_up(enforcer, 2_000))
    thread.join()
    show("lookups, under the flood", np.concatenate(during))
    expected = Counter(
        {"bad_signature": count // 10, "untrusted_key": 7 * count // 10, "malformed": count // 5}
    )
    print(f"counted {dict(enforcer.counts)}; obeyed {len(table)}")
    if enforcer.counts != expected or len(table):
        raise SystemExit("a forged command was obeyed, or not counted")


if __name__ == "__main__":
    main()
