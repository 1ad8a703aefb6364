"""Orders on disk: taken once, replaced by newer ones, and still there after kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.revocation.base import Order
from sinks.revocation.outbox import Outbox, OutboxError

KEY = "k0-" + "a" * 32
FAR_MS = 10**12


def order(number: int, action: str = "revoke", **fields: Any) -> Order:
    usual: dict[str, Any] = {"key": KEY, "alert_id": "f" * 32, "reason": "It copies.", "issued_ms": 0}
    return Order(**(usual | {"command_id": f"{number:032x}", "action": action} | fields))


def states(outbox: Outbox) -> list[str]:
    return [entry.state for entry in outbox.entries()]


def test_an_order_is_taken_once_and_tried_when_it_is_due(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    assert outbox.put(order(1), FAR_MS, 0)
    assert not outbox.put(order(1), FAR_MS, 5)
    outbox.postpone(order(1).command_id, 1_000, 0, "HTTP status 503")
    assert outbox.due(999) == []
    [entry] = outbox.due(1_000)
    assert (entry.order, entry.error) == (order(1), "HTTP status 503")
    outbox.finish(order(1).command_id, "done", 1_001)
    assert outbox.due(2_000) == []
    assert not outbox.put(order(1), FAR_MS, 2_000), "not even when it is done"


def test_a_restore_replaces_a_revocation_never_tried_and_follows_one_that_was(
    tmp_path: Path,
) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(order(1), FAR_MS, 0)
    outbox.put(order(2, "restore"), FAR_MS, 1)
    assert states(outbox) == ["superseded", "unneeded"]
    outbox.put(order(3), FAR_MS, 2)
    outbox.begin(order(3).command_id, 3)
    outbox.put(order(4, "restore"), FAR_MS, 4)
    outbox.postpone(order(3).command_id, 10, 5, "no answer")
    assert [entry.order.command_id for entry in outbox.due(100)] == [order(4).command_id]
    outbox.finish(order(3).command_id, "dead", 6, "HTTP status 400")
    assert states(outbox)[2] == "superseded", "a failure of what was overtaken is no matter"


def test_keys_and_models_are_kept_apart(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(order(1, model="digits"), FAR_MS, 0)
    outbox.put(order(2, model="census"), FAR_MS, 0)
    outbox.put(order(3, key="k0-" + "b" * 32), FAR_MS, 0)
    assert [e.order.command_id[-1] for e in outbox.due(1)] == ["1", "3"], "one at a time for a key"
    outbox.put(order(4, "restore", model=None), FAR_MS, 1)
    assert states(outbox) == ["superseded", "superseded", "pending", "unneeded"]


def test_dead_orders_can_be_taken_up_again(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(order(1), FAR_MS, 0)
    outbox.finish(order(1).command_id, "dead", 1, "HTTP status 401")
    assert [entry.error for entry in outbox.entries("dead")] == ["HTTP status 401"]
    assert outbox.retry(2) == 1
    assert states(outbox) == ["pending"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["revoke", "restore", "try", "succeed"]), st.booleans()), max_size=25)
)
def test_the_provider_always_ends_with_the_newest_word(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, bool]]
) -> None:
    """Whatever fails between: delivering what is left leaves the key as the last command said."""
    outbox = Outbox(tmp_path_factory.mktemp("outbox") / "o.sqlite")
    revoked = wanted = False
    for number, (step, reaches) in enumerate(plan, 1):
        if step in {"revoke", "restore"}:
            outbox.put(order(number, step), FAR_MS, number)
            wanted = step == "revoke"
        for entry in outbox.due(number):
            outbox.begin(entry.order.command_id, number)
            if reaches or step == "succeed":
                revoked = entry.order.action == "revoke"
            if step == "succeed":
                outbox.finish(entry.order.command_id, "done", number)
    for entry in outbox.due(FAR_MS):
        revoked = entry.order.action == "revoke"
        outbox.finish(entry.order.command_id, "done", FAR_MS)
    assert outbox.due(FAR_MS) == []
    assert revoked == wanted
    outbox.close()


def test_kill_9_between_any_two_orders_loses_none_that_was_taken(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
from pathlib import Path
from test_outbox import order
from sinks.revocation.outbox import Outbox
outbox = Outbox(Path({str(tmp_path / "o.sqlite")!r}))
for number in range(1, 1000):
    outbox.put(order(number, key=f"k0-{{number:032x}}"), 10**12, 0)
    print(number, flush=True)
"""
    taken = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parent, text=True
        )
        assert process.stdout is not None
        for _line in range(20 + taken):
            taken = max(taken, int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        with_more = len(Outbox(tmp_path / "o.sqlite").entries("pending"))
        assert with_more >= taken


def test_a_file_that_is_no_outbox_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "o.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(OutboxError, match=r"outbox .*o\.sqlite: file is not a database"):
        Outbox(tmp_path / "o.sqlite")
