"""The engine: batches of events in, alerts out; all per-key state lives here.

One engine per source partition. Pure: the same batches in the same order give the same alerts and the same
`dump`, however they are cut into batches (as long as no key is evicted). Not thread-safe.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from numba import njit

from detectors.alert import LEVELS, is_budget_alert
from detectors.arrays import ArrayFormatError, named, pack_arrays, unpack_arrays
from detectors.batch import format_key_reference, parse_key_reference
from detectors.budgetalert import make_budget_alert
from detectors.campaign import CampaignDetector, make_campaign_alert, owner_ids
from detectors.coldstore import ColdStore
from detectors.explain import make_alert
from detectors.falsediscovery import OnlineFalseDiscovery, alerted_e_value_log10
from detectors.keytable import NO_SLOT, KeyTable, pack_entities, unpack_entity
from detectors.learner import Learner
from detectors.reference import STATISTIC_NAMES
from detectors.secondopinion import SecondOpinion
from detectors.slabs import clear_slots, grow_slabs, make_slabs
from detectors.statistics import STATISTICS
from detectors.watch import WATCH_FIELDS, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from detectors.alert import Alert
    from detectors.base import Array, Fields
    from detectors.batch import EventBatch
    from detectors.keytable import Lookup
    from detectors.reference import ModelReference
    from detectors.watch import Reached, Watched

STATE_VERSION = 3

_HEADER: Fields = {
    "count": ("u4", ()),
    "first_offset": ("i8", ()),
    "hypothesis": ("u4", ()),
    "discovered": ("u1", ()),
}
FIELDS: Fields = {**_HEADER, **WATCH_FIELDS}
"""Everything kept of a hot key."""

_COLD_NAMES = (
    *("count", "first_ms", "first_offset", "level", "promoted"),
    *("surprise_peak", "z_peak", "mean", "mass"),
    *("cells", "cell_count", "label_count", "fresh", "held", "told", "hypothesis", "discovered"),
)
_COLD_ROW = np.dtype([(name, *FIELDS[name]) for name in _COLD_NAMES])
"""What stays of a key that lost its slot: levels and running means, so that slow-and-low survives."""

_CHUNK_ROWS = 8192


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may set. Names carry units."""

    hot_keys: int = 100_000
    """Keys kept in full per engine; the least recently seen are evicted to a cold summary."""
    cold_keys: int = 1_000_000
    """Cold summaries kept per engine."""
    promoted_keys: int = 256
    """Suspect keys that River's detectors look at too, per engine; about 5 kB each."""
    false_discovery_ratio: float = 0.1
    """Share of the alerts called discoveries that may be false."""
    campaign_keys: int = 16_384
    """Keys summarised per model to find campaigns among them; about 300 B each."""


class KeySummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one key now, for `modelwarden key show` and `key explain`."""

    key: str
    model: str
    query_count: int
    first_time_ms: int
    last_time_ms: int
    level: str | None
    key_p_value: float
    held_queries: float
    """Of the queries that a copy of the model needs (`detectors.budget`)."""
    features: dict[str, float]


class StateError(Exception):
    """A state blob cannot be restored: wrong version or damaged. The message says what to do."""


class Engine:
    """Per-key detection over one stream of batches.

    Parameters
    ----------
    settings
        Bounds.
    references
        References by model name; a model without one learns from its own traffic.
    """

    def __init__(self, settings: EngineSettings, references: Mapping[str, ModelReference]) -> None:
        self._settings = settings
        self._references = dict(references)
        self._clear()

    def _clear(self) -> None:
        self._models: list[str] = []
        self._watches: list[Watch | Learner] = []
        self._campaigns: list[CampaignDetector] = []
        self._table = KeyTable(self._settings.hot_keys)
        self._cold = ColdStore(self._settings.cold_keys, _COLD_ROW)
        self._slabs = make_slabs(FIELDS)
        self._second = SecondOpinion(self._settings.promoted_keys)
        self._discovery = OnlineFalseDiscovery(self._settings.false_discovery_ratio)
        self._forgiven: set[tuple[str, str | None]] = set()

    @property
    def key_count(self) -> int:
        """Keys that hold a slot now, each model's counted."""
        return len(self._table)

    @property
    def state_bytes(self) -> int:
        """Bytes of the slabs now."""
        return sum(slab.nbytes for slab in self._slabs.values())

    def process(self, batch: EventBatch) -> list[Alert]:
        """Score the batch, update every key in it, return new alerts in order of their events."""
        rows = min(_CHUNK_ROWS, self._settings.hot_keys)
        alerts: list[Alert] = []
        for start in range(0, len(batch), rows):
            alerts += self._process(batch.take(slice(start, start + rows)))
        return alerts

    def forgive(self, key: str, model: str | None) -> None:
        """Suppress findings about a key (a person said: honest); None: in all models.

        Raises
        ------
        ValueError
            If the text is not a key reference.
        """
        self._forgiven.add((key, model))
        self._reset_level(key, model)

    def condemn(self, key: str, model: str | None) -> None:
        """Lift a suppression again (a person said: guilty), so that what is found is said once more.

        Raises
        ------
        ValueError
            If the text is not a key reference.
        """
        self._forgiven.discard((key, model))
        self._reset_level(key, model)

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
        peak = self._slabs["surprise_peak"][: len(self._table)]
        return map(self._summary, np.argsort(-peak, kind="stable").tolist())

    def dump(self) -> bytes:
        """Return the whole state as bytes, self-describing and versioned."""
        arrays = {f"slab.{name}": slab[: len(self._table)] for name, slab in self._slabs.items()}
        arrays |= {f"table.{name}": array for name, array in self._table.dump().items()}
        arrays |= {f"cold.{name}": array for name, array in self._cold.dump().items()}
        arrays |= {f"river.{name}": array for name, array in self._second.dump().items()}
        learners: dict[str, dict[str, int]] = {}
        for model, watch in zip(self._models, self._watches, strict=True):
            if isinstance(watch, Learner):
                learned, learners[model] = watch.dump()
                arrays |= {f"learner.{model}.{name}": array for name, array in learned.items()}
        campaigns: dict[str, dict[str, int]] = {}
        for model, detector in zip(self._models, self._campaigns, strict=True):
            linked, campaigns[model] = detector.dump()
            arrays |= {f"campaign.{model}.{name}": array for name, array in linked.items()}
        meta = {
            "statistics": STATISTIC_NAMES,
            "models": self._models,
            "learners": learners,
            "campaigns": campaigns,
            "false_discovery": self._discovery.dump(),
            "forgiven": sorted(self._forgiven, key=str),
        }
        return pack_arrays("engine", STATE_VERSION, arrays, meta)

    def restore(self, blob: bytes) -> None:
        """Replace the state by a dump; models with a reference are compared with the one of this engine.

        Raises
        ------
        StateError
            If the dump is damaged, of another version, or does not fit; the state is then empty.
        """
        self._clear()
        try:
            arrays, meta = unpack_arrays(blob, "engine", STATE_VERSION)
            if tuple(meta["statistics"]) != STATISTIC_NAMES:
                raise ArrayFormatError("it holds other statistics than this version's")  # noqa: TRY301 - told below
            self._table.restore(named(arrays, "table"))
            self._cold.restore(named(arrays, "cold"))
            slabs = named(arrays, "slab")
            grow_slabs(self._slabs, len(self._table), self._table.capacity)
            for name, slab in self._slabs.items():
                slab[: len(self._table)] = slabs[name]
            for model in meta["models"]:
                self._add_model(model)
                watch = self._watches[-1]
                if isinstance(watch, Learner) and model in meta["learners"]:
                    watch.restore(named(arrays, f"learner.{model}"), meta["learners"][model])
                self._campaigns[-1].restore(named(arrays, f"campaign.{model}"), meta["campaigns"][model])
            self._second.restore(named(arrays, "river"))
            self._discovery.restore(*meta["false_discovery"])
            self._forgiven = {(str(key), model) for key, model in meta["forgiven"]}
        except (ArrayFormatError, ValueError, KeyError, TypeError) as error:
            self._clear()
            raise StateError(
                f"the engine state cannot be restored: {error}; start from an older snapshot, or without one"
            ) from error

    def _process(self, batch: EventBatch) -> list[Alert]:
        for model in batch.models:
            if model not in self._models:
                self._add_model(model)
        ids = np.array([self._models.index(model) for model in batch.models], np.int32)
        models = ids[batch.model]
        found = self._table.lookup(batch.key, batch.key_epoch, models, batch.time_ms)
        self._move(found, batch)
        number = np.empty(len(batch), np.int64)
        _count(found.slots, self._slabs["count"], number)
        alerts: list[tuple[int, Alert]] = []
        for model in np.unique(models):
            rows = np.flatnonzero(models == model)
            place = _Rows(int(model), rows, found.slots[rows], number[rows])
            alerts += self._watch_model(place, batch if len(rows) == len(batch) else batch.take(rows))
        alerts.sort(key=lambda pair: pair[0])
        return [self._judge(alert, int(found.slots[row])) for row, alert in alerts]

    def _judge(self, alert: Alert, slot: int) -> Alert:
        """Mark the alert if it is a discovery; a key is one hypothesis for life, a campaign one an alert."""
        if is_budget_alert(alert):
            return alert
        e_value = alerted_e_value_log10(alert.key_p_value)
        if alert.subject == "campaign":
            discovered = self._discovery.test(self._discovery.enter(), e_value)
        else:
            hypothesis = self._slabs["hypothesis"]
            if not hypothesis[slot]:
                hypothesis[slot] = self._discovery.enter()
            discovered = bool(self._slabs["discovered"][slot]) or self._discovery.test(
                int(hypothesis[slot]), e_value
            )
            self._slabs["discovered"][slot] = discovered
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
            watched = watch.process(part, slots, self._slabs, number)
            for reached in self._consult(place.model, watched, part, slots):
                first = int(self._slabs["first_offset"][slots[reached.row]])
                alert = make_alert(reached, part, watch.current, int(number[reached.row]), first)
                alerts.append((int(place.rows[start + reached.row]), alert))
            for crossed in [] if watched is None else watched.crossed:
                if not self._is_forgiven(*_named(part, crossed.row)):
                    first = int(self._slabs["first_offset"][slots[crossed.row]])
                    queries, version = int(number[crossed.row]), watch.current.version
                    alert = make_budget_alert(crossed, part, queries, first, version)
                    alerts.append((int(place.rows[start + crossed.row]), alert))
            found = self._find_campaigns(place.model, part, slots, owners[cut])
            alerts += [(int(place.rows[stop - 1]), alert) for alert in found]
            if isinstance(watch, Learner) and not watch.until_next_fit:
                watch.fit(self._slabs, self._members(place.model))
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
        alerts = []
        for finding in self._campaigns[model].process(batch, slots, owners, self._slabs, reference):
            members = [self._key_of(slot) for slot in finding.slots.tolist()]
            blamed = [not self._is_forgiven(key, self._models[model]) for key in members]
            if sum(blamed) > len(blamed) / 2 and current is not None:
                first = int(self._slabs["first_offset"][finding.slots].min())
                alerts.append(make_campaign_alert(finding, members, batch, current.version, first))
        return alerts

    def _key_of(self, slot: int) -> str:
        high, low, epoch, _ = unpack_entity(self._table.entities[slot])
        return format_key_reference(epoch, high, low)

    def _add_model(self, model: str) -> None:
        number = len(self._models)
        self._models.append(model)
        reference = self._references.get(model)
        self._watches.append(Learner(model) if reference is None else Watch(reference))
        self._campaigns.append(CampaignDetector(self._settings.campaign_keys))
        if reference is not None and reference.river is not None:
            self._second.add_model(number, reference.river)

    def _move(self, found: Lookup, batch: EventBatch) -> None:
        """Cool the keys that lose their slots, and warm or clear those that get one."""
        self._second.drop(found.evicted)
        for campaigns in self._campaigns:
            campaigns.forget(found.evicted)
        evicted = np.zeros(len(found.evicted), _COLD_ROW)
        for name in _COLD_NAMES:
            evicted[name] = self._slabs[name][found.evicted]
        self._cold.put(found.evicted_entities, found.evicted_last_ms, evicted)
        grow_slabs(self._slabs, len(self._table), self._table.capacity)
        clear_slots(self._slabs, found.fresh)
        self._slabs["first_ms"][found.fresh] = batch.time_ms[found.fresh_rows]
        self._slabs["first_offset"][found.fresh] = batch.offset[found.fresh_rows]
        summaries, known = self._cold.recall(found.fresh_entities)
        for name in _COLD_NAMES:
            self._slabs[name][found.fresh[known]] = summaries[name][known]

    def _members(self, model: int) -> NDArray[np.int64]:
        """Return the slots of a model's keys."""
        return np.flatnonzero((self._table.entities[:, 2] & np.uint64(0xFFFFFFFF)) == model)

    def _reset_level(self, key: str, model: str | None) -> None:
        for slot in self._slots_of(key):
            if model in {None, self._models[unpack_entity(self._table.entities[slot])[3]]}:
                self._slabs["level"][slot] = self._slabs["told"][slot] = 0

    def _slots_of(self, key: str) -> list[int]:
        epoch, high, low = parse_key_reference(key)
        known = len(self._models)
        entities = pack_entities(
            np.array([[high, low]] * known, np.uint64).reshape(known, 2),
            np.full(known, epoch, np.uint16),
            np.arange(known, dtype=np.int32),
        )
        return [int(slot) for slot in self._table.find(entities) if slot != NO_SLOT]

    def _is_forgiven(self, key: str, model: str) -> bool:
        return (key, None) in self._forgiven or (key, model) in self._forgiven

    def _summary(self, slot: int) -> KeySummary:
        model = unpack_entity(self._table.entities[slot])[3]
        level = int(self._slabs["level"][slot])
        means = self._slabs["mean"][slot]
        return KeySummary(
            key=self._key_of(slot),
            model=self._models[model],
            query_count=int(self._slabs["count"][slot]),
            first_time_ms=int(self._slabs["first_ms"][slot]),
            last_time_ms=int(self._table.last_ms[slot]),
            level=LEVELS[level - 1] if level else None,
            key_p_value=exp(-float(self._slabs["surprise_peak"][slot])),
            held_queries=float(self._slabs["held"][slot]),
            features={s.name: float(mean) for s, mean in zip(STATISTICS, means, strict=True)},
        )


class _Rows(NamedTuple):
    """The rows of one model in a batch: their places in it, slots, and each key's event number."""

    model: int
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    number: NDArray[np.int64]


def _named(batch: EventBatch, row: int) -> tuple[str, str]:
    """Return the key reference and the model of a row."""
    return format_key_reference(batch.key_epoch[row], *batch.key[row]), batch.models[batch.model[row]]


@njit(cache=True, nogil=True)
def _count(slots: Array, count: Array, number: Array) -> None:
    for i in range(len(slots)):
        count[slots[i]] += 1
        number[i] = count[slots[i]]
