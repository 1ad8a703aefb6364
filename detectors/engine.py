"""The engine: batches of events in, alerts out; all per-key state lives here.

One engine per source partition. Pure: the same batches in the same order give the same alerts and the same
`dump`, however they are cut into batches (as long as no key is evicted). Not thread-safe.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from detectors.alert import LEVELS, is_budget_alert
from detectors.arrays import ArrayFormatError, pack_arrays, unpack_arrays
from detectors.batch import SYNTHETIC_EPOCH, format_key_reference, is_synthetic, parse_key_reference
from detectors.budgetalert import make_budget_alert
from detectors.campaign import CampaignDetector, make_campaign_alert, owner_ids
from detectors.explain import make_alert
from detectors.falsediscovery import OnlineFalseDiscovery, alerted_e_value_log10
from detectors.keystate import KEY_LAYOUT, KeyState
from detectors.keysummary import KeySummary, Nearest, nearest, notice_z
from detectors.keytable import NO_SLOT, pack_entities, unpack_entity
from detectors.learner import BORROWED_KEYS, GUILTY, HONEST, Learner
from detectors.lesson import join_lessons, thin
from detectors.modelalarm import ModelAlarm
from detectors.modelalert import make_model_alert
from detectors.parts import PartWriter, StateError
from detectors.reference import STATISTIC_NAMES
from detectors.secondopinion import SecondOpinion
from detectors.settings import EngineSettings
from detectors.statistics import STATISTICS
from detectors.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from detectors.alert import Alert
    from detectors.base import Array
    from detectors.batch import EventBatch
    from detectors.reference import Lesson, ModelReference
    from detectors.watch import Reached, Watched

__all__ = ["STATE_VERSION", "Engine", "EngineSettings", "KeySummary", "StateError"]

STATE_VERSION = 7

_CHUNK_ROWS = 8192


class Engine:
    """Per-key detection over one stream of batches.

    Parameters
    ----------
    settings
        Bounds.
    references
        References by model name; a model without one learns from its own traffic.
    borrowed
        More references by model name, which nothing is compared with: what is known of their honest keys, and
        of those of `references`, helps a model of another name that learns.
    """

    def __init__(
        self,
        settings: EngineSettings,
        references: Mapping[str, ModelReference],
        borrowed: Mapping[str, ModelReference] | None = None,
    ) -> None:
        self._settings = settings
        self._references = dict(references)
        self._borrowed = {**(borrowed or {}), **references}
        self._clear()

    def _clear(self) -> None:
        self._models: list[str] = []
        self._watches: list[Watch | Learner] = []
        self._campaigns: list[CampaignDetector] = []
        self._alarms: list[ModelAlarm] = []
        self._keys = KeyState(self._settings.hot_keys, self._settings.cold_keys)
        self._writer = PartWriter(STATE_VERSION)
        self._changes = self._writes = 0
        self._second = SecondOpinion(self._settings.promoted_keys)
        self._discovery = OnlineFalseDiscovery(self._settings.false_discovery_ratio)
        self._forgiven: set[tuple[str, str | None]] = set()
        self._notices: dict[str, tuple[str, NDArray[np.float64]]] = {}

    @property
    def key_count(self) -> int:
        """Keys that hold a slot now, each model's counted."""
        return len(self._keys)

    @property
    def state_bytes(self) -> int:
        """Bytes of the slabs now."""
        return self._keys.nbytes

    def process(self, batch: EventBatch) -> list[Alert]:
        """Score the batch, update every key in it, return new alerts in order of their events."""
        self._changes += 1
        rows = min(_CHUNK_ROWS, self._settings.hot_keys)
        alerts: list[Alert] = []
        for start in range(0, len(batch), rows):
            alerts += self._process(batch.take(slice(start, start + rows)))
        return alerts

    def forgive(self, key: str, model: str | None) -> None:
        """Suppress findings about a key (a person said: honest), and learn from it; None: in all models.

        Raises
        ------
        ValueError
            If the text is not a key reference.
        """
        self._forgiven.add((key, model))
        self._reset_level(key, model, HONEST)

    def condemn(self, key: str, model: str | None) -> None:
        """Lift a suppression again (a person said: guilty), so that what is found is said once more.

        A model without a reference does not learn from that key any more.

        Raises
        ------
        ValueError
            If the text is not a key reference.
        """
        self._forgiven.discard((key, model))
        self._reset_level(key, model, GUILTY)

    def summary(self, key: str, model: str) -> KeySummary | None:
        """Return what is known of a hot key, or None.

        Raises
        ------
        ValueError
            If the text is not a key reference.
        """
        return next((s for s in map(self._summary, self._slots_of(key)) if s.model == model), None)

    def summaries(self) -> Iterator[KeySummary]:
        """Yield every hot key, most suspect first."""
        peak = self._keys.slabs["surprise_peak"][: len(self._keys)]
        return map(self._summary, np.argsort(-peak, kind="stable").tolist())

    def dump_parts(self, *, changed_only: bool) -> Iterator[tuple[str, bytes]]:
        """Yield the state in named parts, each below 0.9 MB and a few milliseconds of work.

        The newest part of every name together restore the state as of this call. The last part, `meta`, lists
        the checksums of all parts that belong to it, so parts of different calls are never mixed up; names
        that are not listed there may be deleted. Between two parts the caller may do other things, but must
        not use this engine. A call that is not taken to its end changes nothing: the next one repeats it.

        Parameters
        ----------
        changed_only
            Leave out parts that are as they were when last written by `dump_parts`, or read by
            `restore_parts`.

        Raises
        ------
        RuntimeError
            If the engine was used between two parts.
        """
        changes = self._changes
        number = self._writes + 1
        for name, part in self._write(self._writer, number, changed_only=changed_only):
            if self._changes != changes:
                raise RuntimeError("the engine was used while its state was written: hold a lock meanwhile")
            yield name, part
        self._writes = number
        self._keys.clean(number, changed_only=changed_only)

    @property
    def part_names(self) -> frozenset[str]:
        """Names of all parts of the state as last dumped or restored."""
        return self._writer.names

    def restore_parts(self, parts: Mapping[str, bytes]) -> None:
        """Replace the state by the newest part of every name that `dump_parts` gave; others are left out.

        Models with a reference are compared with the one of this engine.

        Raises
        ------
        StateError
            If parts are missing, damaged, of another version, were not written together, or do not fit; the
            state is then empty.
        """
        self._clear()
        try:
            self._read(*self._writer.read(parts))
        except (ArrayFormatError, ValueError, KeyError, TypeError) as error:
            self._clear()
            raise _cannot_restore(error) from error

    def dump(self) -> bytes:
        """Return the whole state as bytes, self-describing and versioned: all parts in one."""
        return msgspec.msgpack.encode(dict(self._write(PartWriter(STATE_VERSION), 0, changed_only=False)))

    def restore(self, blob: bytes) -> None:
        """Replace the state by a `dump`, as `restore_parts` does.

        Raises
        ------
        StateError
            If the dump is damaged, of another version, or does not fit; the state is then empty.
        """
        try:
            parts = msgspec.msgpack.decode(blob, type=dict[str, bytes])
        except msgspec.DecodeError as error:
            self._clear()
            raise _cannot_restore(error) from error
        self.restore_parts(parts)

    def _write(self, writer: PartWriter, number: int, *, changed_only: bool) -> Iterator[tuple[str, bytes]]:
        meta = {
            "number": number,
            "layout": KEY_LAYOUT,
            "statistics": STATISTIC_NAMES,
            "models": self._models,
            "evictions": self._keys.evictions,
            "false_discovery": self._discovery.dump(),
            "forgiven": sorted(self._forgiven, key=str),
        }
        keys, replaced = self._keys.parts(number, changed_only=changed_only), self._keys.replaced(number)
        return writer.write(keys, self._blobs(), meta, changed_only=changed_only, replaced=replaced)

    def _blobs(self) -> Iterator[tuple[str, bytes]]:
        """Yield what is not kept by key."""
        for number, (watch, campaigns) in enumerate(zip(self._watches, self._campaigns, strict=True)):
            if isinstance(watch, Learner):
                yield f"learner/{number}", pack_arrays("learner", STATE_VERSION, *watch.dump())
            yield f"campaigns/{number}", pack_arrays("campaigns", STATE_VERSION, *campaigns.dump())
            yield f"alarm/{number}", pack_arrays("alarm", STATE_VERSION, *self._alarms[number].dump())
        yield "river", pack_arrays("river", STATE_VERSION, self._second.dump())

    def _read(
        self, arrays: Mapping[str, Mapping[str, Array]], blobs: Mapping[str, bytes], meta: Mapping[str, Any]
    ) -> None:
        if tuple(meta["statistics"]) != STATISTIC_NAMES or meta["layout"] != KEY_LAYOUT:
            raise ArrayFormatError("it holds other statistics than this version's")
        self._writes = int(meta["number"])
        self._keys.restore(arrays, meta["evictions"])
        for number, model in enumerate(meta["models"]):
            self._add_model(model)
            watch = self._watches[-1]
            if isinstance(watch, Learner) and f"learner/{number}" in blobs:
                watch.restore(*unpack_arrays(blobs[f"learner/{number}"], "learner", STATE_VERSION))
            linked = unpack_arrays(blobs[f"campaigns/{number}"], "campaigns", STATE_VERSION)
            self._campaigns[-1].restore(*linked)
            self._alarms[-1].restore(*unpack_arrays(blobs[f"alarm/{number}"], "alarm", STATE_VERSION))
        self._second.restore(unpack_arrays(blobs["river"], "river", STATE_VERSION)[0])
        self._discovery.restore(*meta["false_discovery"])
        self._forgiven = {(str(key), model) for key, model in meta["forgiven"]}

    def _process(self, batch: EventBatch) -> list[Alert]:
        for model in batch.models:
            if model not in self._models:
                self._add_model(model)
        ids = np.array([self._models.index(model) for model in batch.models], np.int32)
        models = ids[batch.model]
        slots, number, evicted = self._keys.admit(batch, models)
        self._second.drop(evicted)
        for campaigns, alarm in zip(self._campaigns, self._alarms, strict=True):
            campaigns.forget(evicted)
            alarm.forget(evicted)
        alerts: list[tuple[int, Alert]] = []
        for model in np.unique(models):
            rows = np.flatnonzero(models == model)
            place = _Rows(int(model), rows, slots[rows], number[rows])
            alerts += self._watch_model(place, batch if len(rows) == len(batch) else batch.take(rows))
        alerts.sort(key=lambda pair: pair[0])
        return [self._judge(alert, int(slots[row])) for row, alert in alerts]

    def _judge(self, alert: Alert, slot: int) -> Alert:
        """Date the key, and mark a discovery: a key is one hypothesis for life, a campaign one an alert."""
        alert = msgspec.structs.replace(alert, first_time_ms=int(self._keys.slabs["first_ms"][slot]))
        if is_budget_alert(alert) or is_synthetic(alert.key):
            return alert
        e_value = alerted_e_value_log10(alert.key_p_value)
        if alert.subject != "key":
            discovered = self._discovery.test(self._discovery.enter(), e_value)
        else:
            hypothesis = self._keys.slabs["hypothesis"]
            if not hypothesis[slot]:
                hypothesis[slot] = self._discovery.enter()
            discovered = bool(self._keys.slabs["discovered"][slot]) or self._discovery.test(
                int(hypothesis[slot]), e_value
            )
            self._keys.slabs["discovered"][slot] = discovered
        return msgspec.structs.replace(alert, is_discovery=discovered)

    def _watch_model(self, place: _Rows, batch: EventBatch) -> list[tuple[int, Alert]]:
        """Watch the rows of one model, in pieces that end where it learns or looks for campaigns."""
        watch, campaigns = self._watches[place.model], self._campaigns[place.model]
        alerts = []
        owners = owner_ids(batch)
        start = 0
        while start < len(batch):
            stop = min(len(batch), start + campaigns.until_next_look)
            if isinstance(watch, Learner):
                stop = min(stop, start + watch.until_next_fit)
            cut = slice(start, stop)
            part, slots, number = batch.take(cut), place.slots[cut], place.number[cut]
            watched = watch.process(part, slots, self._keys.slabs, number)
            for reached in self._consult(place.model, watched, part, slots):
                first = int(self._keys.slabs["first_offset"][slots[reached.row]])
                alert = make_alert(reached, part, watch.current, int(number[reached.row]), first)
                alerts.append((int(place.rows[start + reached.row]), alert))
            for crossed in [] if watched is None else watched.crossed:
                if not self._is_forgiven(*_named(part, crossed.row)):
                    first = int(self._keys.slabs["first_offset"][slots[crossed.row]])
                    queries, version = int(number[crossed.row]), watch.current.version
                    alert = make_budget_alert(crossed, part, queries, first, version)
                    alerts.append((int(place.rows[start + crossed.row]), alert))
            if watched is not None:
                odd = self._find_odd_model(place.model, watched, part, slots)
                alerts += [(int(place.rows[start + row]), alert) for row, alert in odd]
            found = self._find_campaigns(place.model, part, slots, owners[cut])
            alerts += [(int(place.rows[stop - 1]), alert) for alert in found]
            if isinstance(watch, Learner) and not watch.until_next_fit:
                watch.fit(self._keys.slabs, self._members(place.model))
            start = stop
        return alerts

    def _consult(
        self, model: int, watched: Watched | None, batch: EventBatch, slots: NDArray[np.int64]
    ) -> list[Reached]:
        """Add River's verdict to what was reached, and leave out the forgiven."""
        if watched is None:
            return []
        river = self._second.advance(model, slots, batch.time_ms, watched.features, watched.promotions)
        return [
            reached._replace(river=float(river[reached.row]))
            for reached in watched.reached
            if not self._is_forgiven(*_named(batch, reached.row))
        ]

    def _find_campaigns(
        self, model: int, batch: EventBatch, slots: NDArray[np.int64], owners: NDArray[np.int32]
    ) -> list[Alert]:
        """Look for keys that are one attacker, leaving out the forgiven ones."""
        watch = self._watches[model]
        current = watch.watch if isinstance(watch, Learner) else watch
        reference = None if current is None else current.reference
        real = batch.key_epoch != SYNTHETIC_EPOCH
        if not real.all():
            batch, slots, owners = batch.take(real), slots[real], owners[real]
        alerts = []
        for finding in self._campaigns[model].process(batch, slots, owners, self._keys.slabs, reference):
            members = [self._key_of(slot) for slot in finding.slots.tolist()]
            blamed = [not self._is_forgiven(key, self._models[model]) for key in members]
            if sum(blamed) > len(blamed) / 2 and current is not None:
                first = int(self._keys.slabs["first_offset"][finding.slots].min())
                alerts.append(make_campaign_alert(finding, members, batch, current.version, first))
        return alerts

    def _find_odd_model(
        self, model: int, watched: Watched, batch: EventBatch, slots: NDArray[np.int64]
    ) -> list[tuple[int, Alert]]:
        """Look for several keys that are odd at once, unless a person calls the most of them honest."""
        alerts = []
        for finding in self._alarms[model].process(slots, watched.surprise, batch.time_ms):
            members = [self._key_of(slot) for slot in finding.slots.tolist()]
            blamed = [not self._is_forgiven(key, self._models[model]) for key in members]
            if sum(blamed) > len(blamed) / 2:
                first = int(self._keys.slabs["first_offset"][finding.slots].min())
                version = self._watches[model].current.version
                alerts.append((finding.row, make_model_alert(finding, members, batch, version, first)))
        return alerts

    def _key_of(self, slot: int) -> str:
        high, low, epoch, _ = unpack_entity(self._keys.table.entities[slot])
        return format_key_reference(epoch, high, low)

    def _add_model(self, model: str) -> None:
        number = len(self._models)
        self._models.append(model)
        reference = self._references.get(model)
        self._watches.append(Learner(model, self._borrow(model)) if reference is None else Watch(reference))
        self._campaigns.append(CampaignDetector(self._settings.campaign_keys))
        self._alarms.append(ModelAlarm(None if reference is None else reference.alarm))
        if reference is not None and reference.river is not None:
            self._second.add_model(number, reference.river)

    def _borrow(self, model: str) -> Lesson | None:
        """Return what is known of honest keys of other models."""
        lessons = [
            r.lesson for name, r in sorted(self._borrowed.items()) if name != model and r.lesson is not None
        ]
        return join_lessons([thin(lesson, 0, BORROWED_KEYS) for lesson in lessons]) if lessons else None

    def _members(self, model: int) -> NDArray[np.int64]:
        """Return the slots of a model's keys, without the canary's."""
        rest = self._keys.table.entities[:, 2]
        is_real = rest >> np.uint64(32) != SYNTHETIC_EPOCH
        return np.flatnonzero(((rest & np.uint64(0xFFFFFFFF)) == model) & is_real)

    def _reset_level(self, key: str, model: str | None, verdict: int) -> None:
        self._changes += 1
        for slot in self._slots_of(key):
            if model in {None, self._models[unpack_entity(self._keys.table.entities[slot])[3]]}:
                self._keys.slabs["level"][slot] = self._keys.slabs["told"][slot] = 0
                self._keys.slabs["verdict"][slot] = verdict
                self._keys.touch(np.array([slot]))

    def _slots_of(self, key: str) -> list[int]:
        epoch, high, low = parse_key_reference(key)
        known = len(self._models)
        entities = pack_entities(
            np.array([[high, low]] * known, np.uint64).reshape(known, 2),
            np.full(known, epoch, np.uint16),
            np.arange(known, dtype=np.int32),
        )
        return [int(slot) for slot in self._keys.table.find(entities) if slot != NO_SLOT]

    def _is_forgiven(self, key: str, model: str) -> bool:
        return (key, None) in self._forgiven or (key, model) in self._forgiven

    def _summary(self, slot: int) -> KeySummary:
        model = unpack_entity(self._keys.table.entities[slot])[3]
        level = int(self._keys.slabs["level"][slot])
        means, watch = self._keys.slabs["mean"][slot], self._watches[model]
        current = watch.watch if isinstance(watch, Learner) else watch
        return KeySummary(
            key=self._key_of(slot),
            model=self._models[model],
            query_count=int(self._keys.slabs["count"][slot]),
            first_time_ms=int(self._keys.slabs["first_ms"][slot]),
            last_time_ms=int(self._keys.table.last_ms[slot]),
            level=LEVELS[level - 1] if level else None,
            key_p_value=exp(-float(self._keys.slabs["surprise_peak"][slot])),
            held_queries=float(self._keys.slabs["held"][slot]),
            features={s.name: float(mean) for s, mean in zip(STATISTICS, means, strict=True)},
            nearest=() if current is None else self._nearest(current, means, self._keys.slabs["mass"][slot]),
        )

    def _nearest(
        self, watch: Watch, mean: NDArray[np.float32], mass: NDArray[np.float32]
    ) -> tuple[Nearest, ...]:
        """Say what comes nearest to a notice; what that takes is worked out once per reference."""
        model, key = watch.reference.model, watch.reference.key
        if self._notices.get(model, ("", None))[0] != watch.version:
            self._notices[model] = watch.version, notice_z(key)
        return nearest(key, self._notices[model][1], mean, mass)


class _Rows(NamedTuple):
    """The rows of one model in a batch: their places in it, slots, and each key's event number."""

    model: int
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    number: NDArray[np.int64]


def _cannot_restore(error: Exception) -> StateError:
    return StateError(
        f"the engine state cannot be restored: {error}; start from an older snapshot, or without one"
    )


def _named(batch: EventBatch, row: int) -> tuple[str, str]:
    """Return the key reference and the model of a row."""
    return format_key_reference(batch.key_epoch[row], *batch.key[row]), batch.models[batch.model[row]]
