"""The canary: a synthetic attack that must be caught every few minutes, so that silence means health.

It goes the whole way of real traffic (events topic, decoding, detection, alerts topic) under a new key of its
own each time, marked by its rotation epoch (`detectors.batch.SYNTHETIC_EPOCH`): such keys are never learned
from, linked to others, commanded or counted.

Who calls it: `modelwarden canary`, a process of its own. Blocks.
"""

from __future__ import annotations

import base64
import random
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import structlog

from detectors.alert import Alert
from detectors.batch import SKETCH_SIZE, SYNTHETIC_EPOCH
from sinks.metrics import catalogue
from sinks.records import ServingEvent
from sinks.serving.event import encode_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sinks.metrics.instruments import Instruments
    from streams.bus.base import Bus
    from streams.clock import Clock
    from streams.settings import Settings

ATTACK_EVENTS = 24
"""The shipped references alarm at the 8th; the rest is room for a model with a wider one."""
SKETCH_SCALE = 10.0
"""Far from what any model is asked: noise, as in Tramèr et al., USENIX Security 2016."""
SPACING_MS = 100

_log = structlog.get_logger(__name__)


def attack_events(model: str, key: str, end_ms: int) -> list[ServingEvent]:
    """Return a small attack on a model that ends now: noise, answered without confidence.

    Parameters
    ----------
    model : str
    key : str
        A key reference; the noise depends on it alone.
    end_ms : int
        Time of the last event.
    """
    draw = np.random.default_rng(int(key[-16:], 16))
    events = []
    for number in range(ATTACK_EVENTS):
        noise = (SKETCH_SCALE * draw.normal(size=SKETCH_SIZE)).astype("<f2").tobytes()
        sketch = base64.b64encode(noise).decode()
        events.append(
            ServingEvent(
                time_ms=end_ms - SPACING_MS * (ATTACK_EVENTS - 1 - number),
                key=key,
                model=model,
                input_sketch=sketch,
                embedding_sketch=sketch,
                top1=float(draw.uniform(0.3, 0.5)),
                margin=float(draw.uniform(0.0, 0.05)),
                entropy_nats=1.5,
            )
        )
    return events


class Catch(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one synthetic attack."""

    model: str
    key: str
    caught: bool
    seconds: float
    """From its last event until its alert was read, or until the wait was over."""
    level: str | None = None


class Canary:
    """Attacks models and looks whether that is noticed.

    Parameters
    ----------
    bus : Bus
    settings : Settings
        For the names of the topics.
    models : sequence of str
        Models with a reference: one that is still learning notices nothing.
    instruments : Instruments
        Of the component `canary`.
    clock : Clock
    """

    def __init__(
        self, bus: Bus, settings: Settings, models: Sequence[str], instruments: Instruments, clock: Clock
    ) -> None:
        self._bus = bus
        self._events, self._alerts = settings.topic("events"), settings.topic("alerts")
        self._models = models
        self._instruments = instruments
        self._clock = clock
        for model in models:  # until it has had its chance, it is not missed
            instruments.set(catalogue.CANARY_LAST_CAUGHT, clock.now_ms() / 1000, model=model)

    def attack(self, wait_s: float, beat: Callable[[], None] = lambda: None) -> list[Catch]:
        """Attack every model once and wait until all are caught, or `wait_s` is over.

        Parameters
        ----------
        wait_s : float
        beat : callable
            Called once a second or so meanwhile.

        Raises
        ------
        BusError
            If the broker fails.
        """
        start = {(self._alerts, p): end for p, end in self._bus.end_offsets(self._alerts).items()}
        keys = {
            model: f"k{SYNTHETIC_EPOCH}-{random.SystemRandom().getrandbits(128):032x}"
            for model in self._models
        }
        for model, key in keys.items():
            for event in attack_events(model, key, self._clock.now_ms()):
                self._bus.send(self._events, encode_event(event), key=key.encode())
        self._bus.flush()
        sent_s = self._clock.monotonic_s()
        found: dict[str, Catch] = {}
        for alert in self._follow(start, beat):
            seconds = self._clock.monotonic_s() - sent_s
            if alert is not None and keys.get(alert.model) == alert.key and alert.level != "notice":
                caught = Catch(
                    model=alert.model, key=alert.key, caught=True, seconds=seconds, level=alert.level
                )
                found.setdefault(alert.model, caught)
            if len(found) == len(keys) or seconds > wait_s:
                break
        return [
            self._note(found.get(model) or Catch(model=model, key=key, caught=False, seconds=wait_s))
            for model, key in keys.items()
        ]

    def _follow(self, start: dict[tuple[str, int], int], beat: Callable[[], None]) -> Iterator[Alert | None]:
        """Yield alerts as they come, and None once in a while."""
        for messages in self._bus.read([self._alerts], start=start, follow=True):
            beat()
            for message in messages:
                try:
                    yield msgspec.json.decode(message.value or b"", type=Alert)
                except msgspec.MsgspecError:
                    continue  # of another version
            yield None

    def _note(self, catch: Catch) -> Catch:
        outcome = "caught" if catch.caught else "missed"
        self._instruments.add(catalogue.CANARY_ROUNDS, outcome=outcome)
        if catch.caught:
            now_s = self._clock.now_ms() / 1000
            self._instruments.set(catalogue.CANARY_LAST_CAUGHT, now_s, model=catch.model)
            self._instruments.observe(catalogue.CANARY_CATCH, catch.seconds)
            _log.info("canary_caught", model=catch.model, seconds=round(catch.seconds, 2), level=catch.level)
        else:
            _log.error("canary_missed", model=catch.model, key=catch.key, waited_s=catch.seconds)
        return catch
