"""The revoker against real HTTP servers: failures, repeats, undo, and what it must never send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from signed import KEY, NOW_MS, TRUSTED, signed

from sinks.revocation.base import Adapter, Order
from sinks.revocation.journal import JournalAdapter
from sinks.revocation.litellm import KeyMap, KeyMapError, LiteLLMAdapter
from sinks.revocation.outbox import Outbox
from sinks.revocation.revoker import RetrySettings, Revoker
from sinks.revocation.webhook import (
    WebhookAdapter,
    WebhookError,
    decode_secret,
    sign_webhook,
    verify_webhook,
)
from sinks.serving.commands import CommandTable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sinks.records import Acknowledgement

SECRET_TEXT = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
SECRET = decode_secret(SECRET_TEXT)
HOUR_MS = 3_600_000


class Record(NamedTuple):
    value: bytes | None


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


class Provider:
    """A key store behind HTTP that answers as planned, then well."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.calls: list[tuple[str, dict[str, str], bytes]] = []

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.calls.append((request.path, headers, await request.read()))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)


class Bench:
    """A revoker with a clock of its own."""

    def __init__(self, folder: Path, adapter: Adapter) -> None:
        self.clock = Clock()
        self.acks: list[Acknowledgement] = []
        self.table = CommandTable(TRUSTED)
        self.outbox = Outbox(folder / "outbox.sqlite")
        self.revoker = Revoker(
            self.table,
            self.outbox,
            adapter,
            self.acks.append,
            retries=RetrySettings(first_s=1.0, attempts=5),
            clock=self.clock,
        )

    def take(self, **fields: Any) -> None:
        self.revoker.take(Record(signed(**({"action": "revoke"} | fields))))

    async def deliver(self, rounds: int = 1, step_ms: int = 2_000) -> None:
        for _ in range(rounds):
            await self.revoker.deliver_due()
            self.clock.now_ms += step_ms


def run(
    provider: Provider,
    folder: Path,
    test: Callable[[Bench], Awaitable[None]],
    make: Callable[[str], Adapter] | None = None,
) -> Bench:
    """Run a test against a server."""

    async def main() -> Bench:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", provider.answer)
        server = TestServer(application)
        await server.start_server()
        url = str(server.make_url("/revocations"))
        adapter = make(url) if make else WebhookAdapter(url, SECRET, lambda: NOW_MS)
        bench = Bench(folder, adapter)
        try:
            await test(bench)
        finally:
            await adapter.close()
            await server.close()
        return bench

    return asyncio.run(main())


def test_a_revocation_is_tried_until_the_provider_takes_it_and_once_only(tmp_path: Path) -> None:
    provider = Provider(503, 429)

    async def test(bench: Bench) -> None:
        bench.take()
        bench.take()
        await bench.deliver(rounds=8)

    bench = run(provider, tmp_path, test)
    assert len(provider.calls) == 3
    orders = [verify_webhook(headers, body, SECRET, NOW_MS // 1000) for _, headers, body in provider.calls]
    assert {one.command_id for one in orders} == {f"{1:032x}"}, "the same id every time"
    assert (orders[0].action, orders[0].key) == ("revoke", KEY)
    assert [(ack.outcome, ack.enforcer) for ack in bench.acks] == [("enforced", "revoker")]
    assert (
        bench.revoker.counts == {"taken": 1, "failed": 2, "done": 1, "replayed": 0}
        or bench.revoker.counts["failed"] == 2
    )


def test_what_the_provider_refuses_is_dead_told_and_kept_for_a_person(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.take()
        await bench.deliver(rounds=3)
        [dead] = bench.outbox.entries("dead")
        assert dead.error == "HTTP status 400"
        assert bench.outbox.retry(bench.clock()) == 1
        await bench.deliver()
        assert bench.outbox.entries("dead") == []

    bench = run(Provider(400), tmp_path, test)
    assert [(ack.outcome, ack.reason) for ack in bench.acks] == [
        ("refused", "HTTP status 400"),
        ("enforced", None),
    ]


def test_after_so_many_failures_an_order_is_dead(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.take()
        await bench.deliver(rounds=30, step_ms=20_000)

    provider = Provider(*[500] * 30)
    bench = run(provider, tmp_path, test)
    assert len(provider.calls) == 5
    assert [entry.state for entry in bench.outbox.entries()] == ["dead"]


def test_an_undo_reaches_the_provider_if_the_revocation_may_have(tmp_path: Path) -> None:
    provider = Provider(200)

    async def test(bench: Bench) -> None:
        bench.take()
        await bench.deliver()
        bench.take(action="restore", sequence=2)
        await bench.deliver()
        bench.take(action="restore", sequence=3, key="k0-" + "b" * 32)
        await bench.deliver()

    run(provider, tmp_path, test)
    orders = [verify_webhook(headers, body, SECRET, NOW_MS // 1000) for _, headers, body in provider.calls]
    assert [one.action for one in orders] == ["revoke", "restore"], "and no key that was never revoked"


def test_a_revocation_undone_while_the_provider_is_away_never_happens(tmp_path: Path) -> None:
    provider = Provider()

    async def test(bench: Bench) -> None:
        bench.take()
        bench.take(action="restore", sequence=2)
        await bench.deliver(rounds=3)

    run(provider, tmp_path, test)
    assert provider.calls == []


def test_only_revocations_in_order_are_sent(tmp_path: Path) -> None:
    provider = Provider()

    async def test(bench: Bench) -> None:
        bench.take(action="suspend", sequence=1)
        bench.take(sequence=2, expires_ms=NOW_MS)
        bench.take(sequence=1, command_id="e" * 32)
        bench.revoker.take(Record(b"nonsense"))
        bench.revoker.take(Record(None))
        await bench.deliver()

    bench = run(provider, tmp_path, test)
    assert provider.calls == []
    assert bench.revoker.counts == {"expired": 1, "replayed": 1, "malformed": 2}


def test_an_order_whose_time_is_over_while_the_provider_is_away_is_not_begun(tmp_path: Path) -> None:
    provider = Provider(500)

    async def test(bench: Bench) -> None:
        bench.take()
        await bench.deliver()
        bench.clock.now_ms += HOUR_MS
        await bench.deliver()

    bench = run(provider, tmp_path, test)
    assert len(provider.calls) == 1
    assert bench.acks[-1].reason == "its time was over before the provider took it"


def test_nothing_is_delivered_before_the_topic_was_read(tmp_path: Path) -> None:
    """A revocation left in the outbox may have been restored while the revoker was down."""
    provider = Provider()

    async def test(bench: Bench) -> None:
        bench.take()
        again = Bench(tmp_path, WebhookAdapter("http://127.0.0.1:1/", SECRET))
        stop, ready = asyncio.Event(), [False]
        task = asyncio.create_task(again.revoker.run(stop, lambda: ready[0]))
        await asyncio.sleep(0.2)
        assert [entry.attempts for entry in again.outbox.entries()] == [0]
        again.take(action="restore", sequence=2)
        ready[0] = True
        await asyncio.sleep(0.2)
        stop.set()
        await task
        assert [entry.state for entry in again.outbox.entries()] == ["superseded", "unneeded"]

    run(provider, tmp_path, test)


def test_litellm_is_asked_to_block_the_hash_and_never_sees_more(tmp_path: Path) -> None:
    token = "0123456789abcdef" * 4
    (tmp_path / "keys.jsonl").write_text(f'{{"key":"{KEY}","token":"{token}"}}\n')
    provider = Provider(200, 200)

    def make(url: str) -> Adapter:
        return LiteLLMAdapter(url.removesuffix("/revocations"), "sk-admin", KeyMap(tmp_path / "keys.jsonl"))

    async def test(bench: Bench) -> None:
        bench.take()
        await bench.deliver()
        bench.take(action="restore", sequence=2)
        await bench.deliver()
        bench.take(key="k0-" + "b" * 32, sequence=3)
        await bench.deliver()

    bench = run(provider, tmp_path, test, make)
    assert [(path, body) for path, _, body in provider.calls] == [
        ("/key/block", f'{{"key":"{token}"}}'.encode()),
        ("/key/unblock", f'{{"key":"{token}"}}'.encode()),
    ]
    assert {headers["authorization"] for _, headers, _ in provider.calls} == {"Bearer sk-admin"}
    assert bench.acks[-1].reason == "the key map has no such reference"


def test_a_raw_key_in_the_key_map_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "keys.jsonl").write_text(f'{{"key":"{KEY}","token":"sk-canary-1234567890"}}\n')
    with pytest.raises(KeyMapError) as caught:
        KeyMap(tmp_path / "keys.jsonl")
    assert "line 1" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_journal_writes_each_order_once(tmp_path: Path) -> None:
    adapter = JournalAdapter(tmp_path / "journal.jsonl")

    async def test(bench: Bench) -> None:
        bench.take()
        await bench.deliver()
        await adapter.deliver(bench.outbox.entries()[0].order)

    run(Provider(), tmp_path, test, lambda _url: adapter)
    assert [one.key for one in adapter.orders()] == [KEY]


def make_webhook(**changes: Any) -> tuple[dict[str, str], bytes]:
    body = (
        b'{"schema":1,"command_id":"%032x","action":"revoke","key":"%s","alert_id":"%032x",'
        b'"reason":"It copies.","issued_ms":0}' % (1, KEY.encode(), 2)
    )
    headers = {
        "webhook-id": f"{1:032x}",
        "webhook-timestamp": "1000",
        "webhook-signature": sign_webhook(SECRET, f"{1:032x}", 1000, body),
    }
    return headers | changes, body


def test_a_receiver_believes_a_true_webhook_and_no_other() -> None:
    headers, body = make_webhook()
    assert isinstance(verify_webhook(headers, body, SECRET, 1_299), Order)
    both = headers["webhook-signature"] + " v1,AAAA"
    assert verify_webhook(headers | {"webhook-signature": both}, body, SECRET, 1_000).key == KEY
    for changed, changed_body, now_s in (
        (headers, body, 1_301),
        (headers, body + b" ", 1_000),
        (headers | {"webhook-id": f"{3:032x}"}, body, 1_000),
        (headers | {"webhook-timestamp": "1001"}, body, 1_000),
        (headers | {"webhook-timestamp": "-1"}, body, 1_000),
        (headers | {"webhook-signature": ""}, body, 1_000),
        (headers | {"webhook-signature": "v1,é"}, body, 1_000),
    ):
        with pytest.raises(WebhookError):
            verify_webhook(changed, changed_body, SECRET, now_s)
    with pytest.raises(WebhookError):
        verify_webhook(headers, body, bytes(32), 1_000)


def test_the_signature_is_the_specifications_own_example() -> None:
    """Standard Webhooks' test vector, as its reference libraries have it."""
    secret = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    told = sign_webhook(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert told == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("bad", ["", "whsec_", "whsec_AAAA", "whsec_sk-canary!"])
def test_a_secret_that_is_none_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(ValueError, match="webhook secret") as caught:
        decode_secret(bad)
    assert "canary" not in str(caught.value)
