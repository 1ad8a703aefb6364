"""The engine: batches of events in, alerts out; all per-key state lives here.

One engine per source partition. Pure: the same batches in the same order give the same alerts and the same
`dump`, however they are cut into batches (as long as no key is evicted). Not thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from detectors.alert import is_budget_alert
from detectors.arrays import ArrayFormatError, pack_arrays, unpack_arrays
from detectors.attention import attend, whole
from detectors.batch import SYNTHETIC_EPOCH, is_synthetic
from detectors.budget import Crossed
from detectors.budgetalert import make_budget_alert
from detectors.campaign import make_campaign_alert, owner_ids
from detectors.explain import make_alert
from detectors.falsediscovery import OnlineFalseDiscovery, alerted_e_value_log10
from detectors.keystate import KEY_LAYOUT, KeyState
from detectors.keysummary import KeySummary, summarise
from detectors.learner import GUILTY, HONEST, Learner, borrow
from detectors.modelalert import make_model_alert
from detectors.modelrows import ModelRows
from detectors.modelwatch import ModelWatch
from detectors.parts import PartWriter, StateError, cannot_restore
from detectors.reference import STATISTIC_NAMES
from detectors.secondopinion import SecondOpinion
from detectors.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from detectors.alert import Alert
    from detectors.attention import Part
    from detectors.base import Array
    from detectors.batch import EventBatch
    from detectors.reference import ModelReference
    from detectors.watch import Reached, Watched

__all__ = ["STATE_VERSION", "Engine", "EngineSettings", "KeySummary", "StateError"]

STATE_VERSION = 8

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
        self._names: list[str] = []
        self._models: list[ModelWatch] = []
        self._keys = KeyState(self._settings.hot_keys, self._settings.cold_keys)
        self._writer = PartWriter(STATE_VERSION)
        self._changes = self._writes = 0
        self._second = SecondOpinion(self._settings.promoted_keys)
        self._discovery = OnlineFalseDiscovery(self._settings.false_discovery_ratio)
        self._forgiven: set[tuple[str, str | None]] = set()

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
        pieces = (batch.take(slice(start, start + rows)) for start in range(0, len(batch), rows))
        return [alert for piece in pieces for alert in self._process(piece)]

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

    def learned(self) -> list[ModelReference]:
        """Return the newest references that models have learned by themselves."""
        return [model.learned for model in self._models if model.learned is not None]

    def summary(self, key: str, model: str) -> KeySummary | None:
        """Return what is known of a hot key, or None.

        Raises
        ------
        ValueError
            If the text is not a key reference.
        """
        slots = self._keys.slots_of(key, len(self._names))
        found = (summarise(self._keys, slot, self._models) for slot in slots)
        return next((one for one in found if one.model == model), None)

    def summaries(self) -> Iterator[KeySummary]:
        """Yield every hot key, most suspect first."""
        peak = self._keys.slabs["surprise_peak"][: len(self._keys)]
        order = np.argsort(-peak, kind="stable").tolist()
        return (summarise(self._keys, slot, self._models) for slot in order)

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
            raise cannot_restore(error) from error

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
            raise cannot_restore(error) from error
        self.restore_parts(parts)

    def _write(self, writer: PartWriter, number: int, *, changed_only: bool) -> Iterator[tuple[str, bytes]]:
        meta = {
            "number": number,
            "layout": KEY_LAYOUT,
            "statistics": STATISTIC_NAMES,
            "models": self._names,
            "evictions": self._keys.evictions,
            "false_discovery": self._discovery.dump(),
            "forgiven": sorted(self._forgiven, key=str),
        }
        keys, replaced = self._keys.parts(number, changed_only=changed_only), self._keys.replaced(number)
        return writer.write(keys, self._blobs(), meta, changed_only=changed_only, replaced=replaced)

    def _blobs(self) -> Iterator[tuple[str, bytes]]:
        """Yield what is not kept by key."""
        for number, model in enumerate(self._models):
            yield from model.parts(number, STATE_VERSION)
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
            self._models[-1].restore(blobs, number, STATE_VERSION)
        self._second.restore(unpack_arrays(blobs["river"], "river", STATE_VERSION)[0])
        self._discovery.restore(*meta["false_discovery"])
        self._forgiven = {(str(key), model) for key, model in meta["forgiven"]}

    def _process(self, batch: EventBatch) -> list[Alert]:
        for model in batch.models:
            if model not in self._names:
                self._add_model(model)
        models = np.array([self._names.index(model) for model in batch.models], np.int32)[batch.model]
        slots, number, evicted = self._keys.admit(batch, models)
        if len(evicted):
            self._second.drop(evicted)
            for watched in self._models:
                watched.forget(evicted)
        alerts: list[tuple[int, Alert]] = []
        for one in np.bincount(models).nonzero()[0].tolist():
            rows = (models == one).nonzero()[0]
            alerts += self._watch_model(ModelRows.of(one, batch, rows, slots, number))
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

    def _watch_model(self, rows: ModelRows) -> list[tuple[int, Alert]]:
        """Watch the rows of one model, in pieces that end where it learns or looks for campaigns."""
        model, slabs = self._models[rows.model], self._keys.slabs
        watch = model.watch
        alerts: list[tuple[int, Alert]] = []
        start = 0
        while start < len(rows.rows):
            piece = rows.cut(slice(start, start + model.until_next_stop))
            start += len(piece.rows)
            watched = watch.process(piece, slabs, self._attend(model, piece))
            alerts += [] if watched is None else self._tell(piece, watched)
            last = int(piece.rows[-1])
            alerts += [(last, alert) for alert in self._find_campaigns(model, piece)]
            if isinstance(watch, Learner) and not watch.until_next_fit:
                watch.fit(slabs, self._keys.members(rows.model))
        return alerts

    def _attend(self, model: ModelWatch, piece: ModelRows) -> Part:
        """Choose what to look at; everything while it is learned what is odd."""
        if model.current is None:
            return whole(piece)
        return attend(piece, self._settings.attentive_queries)

    def _tell(self, piece: ModelRows, watched: Watched) -> Iterator[tuple[int, Alert]]:
        """Make the alerts of what was seen in a piece, each with its row."""
        model, first = self._models[piece.model], self._keys.slabs["first_offset"]
        current, batch = model.watch.current, piece.batch
        for place, reached in self._consult(piece, watched):
            queries, offset = int(piece.number[place]), int(first[piece.slots[place]])
            yield reached.row, make_alert(reached, batch, current, queries, offset)
        for place, extraction in watched.crossed:
            crossed = Crossed(int(piece.rows[place]), extraction)
            if not self._is_forgiven(*batch.subject(crossed.row)):
                queries, offset = int(piece.number[place]), int(first[piece.slots[place]])
                yield crossed.row, make_budget_alert(crossed, batch, queries, offset, current.version)
        yield from self._find_odd_model(model, batch, watched)

    def _consult(self, piece: ModelRows, watched: Watched) -> Iterator[tuple[int, Reached]]:
        """Add River's verdict to what was reached, and leave out the forgiven.

        Yield the place in the piece, and what was reached with its row in the batch.
        """
        river = self._second.advance(piece.model, watched).tolist()
        for reached, verdict in zip(watched.reached, river, strict=True):
            row = int(watched.part.rows[reached.row])
            if not self._is_forgiven(*piece.batch.subject(row)):
                yield int(watched.part.places[reached.row]), reached._replace(row=row, river=verdict)

    def _find_campaigns(self, model: ModelWatch, piece: ModelRows) -> list[Alert]:
        """Look for keys that are one attacker, leaving out the forgiven ones."""
        current, batch, real = model.current, piece.batch, piece.of_customers()
        reference, owners = None if current is None else current.reference, owner_ids(batch, real.rows)
        alerts = []
        for finding in model.campaigns.process(real, owners, self._keys.slabs, reference):
            members = self._blamed(model, finding.slots)
            if members and current is not None:
                first = int(self._keys.slabs["first_offset"][finding.slots].min())
                alerts.append(make_campaign_alert(finding, members, batch, current.version, first))
        return alerts

    def _find_odd_model(
        self, model: ModelWatch, batch: EventBatch, watched: Watched
    ) -> Iterator[tuple[int, Alert]]:
        """Look for several keys that are odd at once, unless a person calls the most of them honest."""
        rows, seen = watched.part.rows, (watched.part.slots, watched.surprise, watched.part.time_ms)
        is_real = batch.key_epoch[rows] != SYNTHETIC_EPOCH
        if not is_real.all():
            rows, seen = rows[is_real], tuple(column[is_real] for column in seen)
        for found in model.alarm.process(*seen):
            finding = found._replace(row=int(rows[found.row]))
            members = self._blamed(model, finding.slots)
            if members:
                first = int(self._keys.slabs["first_offset"][finding.slots].min())
                version = model.watch.current.version
                yield finding.row, make_model_alert(finding, members, batch, version, first)

    def _blamed(self, model: ModelWatch, slots: NDArray[np.int64]) -> list[str]:
        """Return the keys of a finding; none if a person calls half of them or more honest."""
        members = [self._keys.key_of(slot) for slot in slots.tolist()]
        forgiven = sum(self._is_forgiven(key, model.name) for key in members)
        return members if 2 * forgiven < len(members) else []

    def _add_model(self, model: str) -> None:
        reference = self._references.get(model)
        lesson = borrow(self._borrowed, model) if reference is None else None
        if reference is not None and reference.river is not None:
            self._second.add_model(len(self._models), reference.river)
        self._names.append(model)
        self._models.append(ModelWatch(model, reference, lesson, self._settings.campaign_keys))

    def _reset_level(self, key: str, model: str | None, verdict: int) -> None:
        self._changes += 1
        for slot in self._keys.slots_of(key, len(self._models)):
            if model in {None, self._names[self._keys.model_of(slot)]}:
                self._keys.slabs["level"][slot] = self._keys.slabs["told"][slot] = 0
                self._keys.slabs["verdict"][slot] = verdict
                self._keys.touch(np.array([slot]))

    def _is_forgiven(self, key: str, model: str) -> bool:
        return (key, None) in self._forgiven or (key, model) in self._forgiven
