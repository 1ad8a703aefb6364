"""One serving process's end of Modelwarden: refuses calls, changes answers, tells what was served.

Who calls it: the ASGI middleware and the sidecar; a server of another kind may call it directly. `begin` and
what it returns never block and never raise for what a caller sent: a call that cannot be observed is served,
and counted.
"""

from __future__ import annotations

import hmac
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from sinks.allowlist import Allowlist
from sinks.secretfile import read_key_secret
from sinks.serving.actions import coarsen, watermark
from sinks.serving.clock import now_ms
from sinks.serving.commands import CommandTable
from sinks.serving.emitter import Emitter
from sinks.serving.enforcer import Enforcer
from sinks.serving.keyref import KeyReferences
from sinks.serving.observer import Observer
from sinks.serving.outlet import Outlet
from sinks.serving.settings import WatchedKeys

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from sinks.records import Acknowledgement
    from sinks.serving.commands import Standing
    from sinks.serving.settings import ServingSettings

_log = logging.getLogger(__name__)


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call is refused, and what its caller is told."""

    status: int
    """HTTP status."""
    kind: str
    """`key_revoked`, `key_suspended`, `verification_required`, `rate_limited` or `starting`."""
    message: str
    retry_after_s: int | None = None
    command_id: str | None = None
    """What to quote when asking why."""

    def body(self, contact: str | None) -> bytes:
        """Write what the caller is told as JSON."""
        told = {"type": self.kind, "message": self.message, "reference": self.command_id, "contact": contact}
        return msgspec.json.encode({"error": {name: v for name, v in told.items() if v is not None}})


_STARTING = Denial(status=503, kind="starting", message="The service is starting.", retry_after_s=1)


class Call:
    """One call: whether it may be served, and what is told of it.

    Attributes
    ----------
    key : str
        Reference of its API key.
    denial : Denial or None
        Why it must not be served.
    """

    __slots__ = ("_now_ms", "_standing", "_tenant", "_warden", "denial", "key")

    def __init__(
        self, warden: Warden, key: str, tenant: str | None, standing: tuple[Standing, ...], time_ms: int
    ) -> None:
        self._warden = warden
        self._standing = standing
        self._tenant = tenant
        self._now_ms = time_ms
        self.key = key
        self.denial: Denial | None = None

    @property
    def actions(self) -> tuple[str, ...]:
        """The actions in force for the call, strongest first."""
        return tuple(standing.action for standing in self._standing)

    def observe(self, *, inputs: Any = None, probabilities: ArrayLike | None = None, **fields: Any) -> Any:
        """Tell what was asked and answered; return the answer to give.

        Parameters
        ----------
        inputs : array_like or str or bytes, optional
            The model's input: numbers are copied, sketched some milliseconds later, and leave the process as
            32 projections only; a text is not sketched. An array costs least; a list is read number by
            number.
        probabilities : array_like (n_classes,), optional
            The answer's class probabilities.
        **fields
            Other fields of `sinks.records.ServingEvent`: plan, prompt_tokens, embedding_sketch and so on.

        Returns
        -------
        array_like or None
            `probabilities` as they are, or coarser or watermarked if a command says so.
        """
        self._warden._tell(self, inputs, probabilities, fields)  # noqa: SLF001 - its own half
        if probabilities is None or not self._standing:
            return probabilities
        return self._warden._change(self._standing, inputs, probabilities)  # noqa: SLF001 - same


class Warden:
    """Enforcer, events and acknowledgements of one process.

    Parameters
    ----------
    settings : ServingSettings
    clock : callable
        Milliseconds since 1970.

    Raises
    ------
    ModelwardenError
        If a secret or a key cannot be used; the message says what to do.
    """

    def __init__(self, settings: ServingSettings, clock: Callable[[], int] = now_ms) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        """Calls by what was done: `served`, each `Denial.kind`, `coarsened`, `watermarked`, `unobserved`."""
        self._clock = clock
        secret = read_key_secret(settings.key_secret_file)
        self.reference = KeyReferences(secret, settings.key_epoch)
        """Returns the reference that stands for an API key. Raises ValueError for an empty key."""
        self._watermark_secret = hmac.digest(secret, b"mw-watermark-secret", "sha256")
        self.events = Emitter(
            settings.kafka,
            settings.topic("events"),
            queued_bytes=settings.queued_bytes,
            security=settings.kafka_security,
        )
        self.observer = Observer(settings.model, self.events, self._count_unobserved)
        self.acks = Outlet(settings.kafka, settings.topic("acks"), security=settings.kafka_security)
        keys = WatchedKeys(settings.trusted_keys)
        allowlist = Allowlist(keys.keys)
        table = CommandTable(
            keys.keys,
            tenants=settings.tenants,
            max_skew_ms=settings.max_skew_ms,
            instances=settings.instances,
            allowlist=allowlist,
        )
        self.enforcer = Enforcer(
            table,
            kafka=settings.kafka,
            security=settings.kafka_security,
            topics=(settings.topic("commands"), settings.topic("allowlist")),
            name=settings.enforcer_name,
            acknowledge=self._acknowledge,
            fail_open=settings.fail_open,
            stale_s=settings.stale_s,
            allowlist=allowlist,
            keys=keys,
            clock=clock,
        )

    def start(self) -> None:
        """Begin to follow commands and to send events. Calling it twice is harmless."""
        self.acks.start()
        self.events.start()
        self.observer.start()
        self.enforcer.start()

    def stop(self) -> None:
        """Stop, and send what is queued if Kafka is there."""
        self.enforcer.stop()
        self.observer.stop()
        self.events.stop()
        self.acks.stop()

    def begin(self, api_key: str | bytes, tenant: str | None = None, *, is_verified: bool = False) -> Call:
        """Look a call's key up, and decide whether the call may be served.

        Parameters
        ----------
        api_key : str or bytes
            Not empty. It is not kept.
        tenant : str, optional
            Whose key it is; a command about another tenant does not hold.
        is_verified : bool
            Whether the caller has passed the provider's challenge.
        """
        call = self.resume(api_key, tenant)
        if call._standing:  # noqa: SLF001 - its own half
            call.denial = _deny(call._standing, call._now_ms, is_verified=is_verified)  # noqa: SLF001 - same
        elif self.settings.start_closed and not self.enforcer.is_ready:
            call.denial = _STARTING
        self.counts["served" if call.denial is None else call.denial.kind] += 1
        return call

    def resume(self, api_key: str | bytes, tenant: str | None = None) -> Call:
        """Return a call that was let through before, to observe it; nothing is counted or throttled again."""
        time_ms = self._clock()
        key = self.reference(api_key)
        standing = self.enforcer.table.lookup(key, self.settings.model, tenant, time_ms)
        return Call(self, key, tenant, standing, time_ms)

    def _tell(self, call: Call, inputs: Any, probabilities: Any, fields: dict[str, Any]) -> None:
        """Queue the call; the observer's thread makes an event of it."""
        if not self.settings.emit:
            return
        if call._tenant is not None:  # noqa: SLF001 - its own half
            fields.setdefault("tenant", call._tenant)  # noqa: SLF001 - same
        try:
            self.observer.put(call._now_ms, call.key, inputs, probabilities, fields)  # noqa: SLF001 - same
        except (ValueError, TypeError) as error:
            # Never with the text of the error, which may hold what the caller sent.
            self._count_unobserved(1)
            _log.debug("a call could not be observed: %s", type(error).__name__)

    def _count_unobserved(self, calls: int) -> None:
        self.counts["unobserved"] += calls

    def _change(self, standing: tuple[Standing, ...], inputs: Any, probabilities: Any) -> Any:
        """Apply what is in force to an answer; watermark first, so that a coarser answer carries it."""
        by_action = {one.action: one.command.parameters for one in standing}
        if "watermark" in by_action and inputs is not None:
            raw = _input_bytes(inputs)
            probabilities = watermark(probabilities, raw, self._watermark_secret, by_action["watermark"])
            self.counts["watermarked"] += 1
        if "coarsen" in by_action:
            probabilities = coarsen(probabilities, by_action["coarsen"])
            self.counts["coarsened"] += 1
        return probabilities

    def _acknowledge(self, acknowledgement: Acknowledgement) -> None:
        self.acks.put((acknowledgement.key or "").encode(), msgspec.json.encode(acknowledgement))


def _input_bytes(inputs: Any) -> bytes:
    if isinstance(inputs, str):
        return inputs.encode()
    return inputs if isinstance(inputs, bytes) else np.asarray(inputs, np.float64).tobytes()


def _deny(standing: tuple[Standing, ...], time_ms: int, *, is_verified: bool) -> Denial | None:
    """Decide whether one of the commands in force refuses the call; a throttle takes its token."""
    for one in standing:
        command = one.command
        if one.action == "revoke":
            return Denial(
                status=403, kind="key_revoked", message="This API key has been revoked.",
                command_id=command.command_id,
            )  # fmt: skip
        if one.action == "suspend":
            return Denial(
                status=403, kind="key_suspended", message="This API key is suspended.",
                retry_after_s=-(-(one.expires_ms - time_ms) // 1000), command_id=command.command_id,
            )  # fmt: skip
        if one.action == "challenge" and not is_verified:
            return Denial(
                status=403, kind="verification_required", message="Verify this API key to go on.",
                command_id=command.command_id,
            )  # fmt: skip
        if one.bucket is not None and not one.bucket.take(time_ms):
            return Denial(
                status=429, kind="rate_limited", message="Too many requests.",
                retry_after_s=one.bucket.wait_s(), command_id=command.command_id,
            )  # fmt: skip
    return None
