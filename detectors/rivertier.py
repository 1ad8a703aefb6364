"""River's incremental detectors, for the few keys that have climbed past a first level.

Per model a half-space forest (Tan, Ting, Liu, "Fast anomaly detection for streaming data", IJCAI 2011) learns
the scores that the signals give to keys that are not promoted; so it sees combinations of scores that no
single signal sees. An event of a promoted key is ranked by it against those keys' events. Per promoted key an
adaptive window (ADWIN; Bifet, Gavalda, "Learning from time-changing data with adaptive windowing", SDM 2007)
averages the ranks since the key last changed its ways.

The forest's two known flaws: it takes features to lie in [0, 1], so they are scaled by quantiles of the
reference; it is blind in its first window, so it learns from the reference first (`pretrain`).

Nothing of River is ever serialised: a detector's state is defined by the last inputs it was given, which are
kept, and `restore` gives them to a new one. So a dump is plain numbers, and a restored tier goes on exactly.

Measured (`python tests/bench/river_detectors.py <folder of traces>`): 320 benign MNIST keys, half of them for
reference. AUC of single events against benign ones: uniform, Knockoff with Fashion and
KMNIST, Copycat, line search, JbDA.

===================================  ======  =========  =========  =============================
detector on                              kB  learn, us  score, us  AUC
===================================  ======  =========  =========  =============================
sketch, forest 10 x 4                    59        4.0        6.1  .88 .66 .71 .83 .82 .51
sketch, forest 10 x 8 (the default)    1073        7.0        8.3  .93 .71 .73 .86 .84 .52
sketch, forest 25 x 6                   623       12.7       17.0  .99 .67 .73 .91 .91 .55
sketch, one-class SVM                     1        5.9        0.6  .83 .61 .67 .86 .82 .58
five scores, forest 5 x 4                26        1.6        2.8  .95 .94 .93 .90 .90 .42
five scores, forest 10 x 4               57        3.3        5.4  .94 .94 .93 .90 .90 .41
five scores, forest 25 x 6              621       11.7       17.3  .93 .94 .93 .89 .89 .40
five scores, one-class SVM                0        2.5        0.2  .80 .31 .58 .47 .66 .48
===================================  ======  =========  =========  =============================

A local outlier factor takes 203 us a score with 60 events kept. Windows of 50 or 1000 move no AUC on scores
by more than .02. So: scores rather than sketches, trees of height 4, ten of them because signals give more
than five scores, a window of 250. An adaptive window takes 0.5 kB and well under 1 us.

Blind to Jacobian augmentation if its features are; it adds nothing that no signal sees a part of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detectors.kernelcache import njit
from detectors.riverforest import WINDOW, Forest, train
from detectors.riverplace import Place, make_window, rebuild

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Array

SCORES = ("forest_rank", "regime_rank")
"""Columns of `RiverTier.score`: share of other keys' events that the forest finds less odd than this event,
and the mean of that share since the key last changed."""

SAMPLE_EVERY, LEARN_MS = 256, 1000
"""One event in so many of keys not promoted is learned from, per model, but none this soon after the last:
learning one takes River longer than all signals take to score it, and ways change with time, not load."""
FULL_EVENTS, THIN_EVERY = 512, 64
"""A promoted key's first events are all scored, then one in 64: a flood must not stall the worker."""
SETTLED_EVENTS = 16
"""Ranked events before a mean says anything."""
MOST_WAITING = 1024
"""Rows that may wait to be ranked."""
_NEVER_MS = -(2**62)
_NONE = -1


class RiverTier:
    """A bounded number of promoted keys, and one forest per model.

    When all places are taken, the weakest level goes, among equals the least recently seen; a newcomer
    weaker than all who are there is refused.

    Parameters
    ----------
    max_keys
        Places for promoted keys; a place takes about 5 kB, a model about 130 kB.
    seed
        Of the forests' random cuts: the same seed and events give the same scores.
    """

    def __init__(self, max_keys: int = 256, seed: int = 0) -> None:
        if max_keys < 1:
            raise ValueError(f"max_keys is {max_keys}; the River tier needs at least one place")
        self.max_keys = max_keys
        self.seed = seed
        self.evicted = 0
        self._forests: dict[int, Forest] = {}
        self._passed = np.empty(0, np.int64)
        """By model: rows of keys not promoted so far; -1 where it has no forest."""
        self._learned_ms = np.empty(0, np.int64)
        """By model: the time of the event that was learned from last."""
        self._events, self._latest_ms = (np.zeros(max_keys, np.int64) for _ in range(2))
        """By place: events since the promotion, latest event time."""
        self._clear_places()
        self._waiting: list[_Waiting] = []
        self._waiting_rows = 0

    @property
    def promoted(self) -> dict[int, tuple[float, int]]:
        """Level and latest event time of each promoted slot, the next to go first."""
        return {slot: self._strength(slot) for slot in sorted(self._places, key=self._first_to_go)}

    def _strength(self, slot: int) -> tuple[float, int]:
        return self._places[slot].level, int(self._latest_ms[self._place_of[slot]])

    def _first_to_go(self, slot: int) -> tuple[float, int, int]:
        return *self._strength(slot), slot

    def pretrain(self, model: int, features: Array) -> None:
        """Give a model a forest that has learned the features (m, d) of benign events; replaces an older one.

        NaN is allowed. Fewer than two windows of rows are gone through again; 2,000 rows, shuffled, do well.

        Raises
        ------
        ValueError
            If no row has a finite feature.
        """
        usable = features[np.isfinite(features).any(axis=1)].astype(np.float64)
        if len(usable) == 0:
            raise ValueError(
                f"no usable reference event for model {model}: its River forest cannot be trained"
            )
        make_window()  # what it imports would otherwise keep the first alert waiting
        self._catch_up()
        self._forests[model] = train(usable, self.seed + model)
        self._pass(model, max(self._passed[model], 0) if model < len(self._passed) else 0)

    def _pass(self, model: int, count: int, learned_ms: int = _NEVER_MS) -> None:
        """Say how many rows of a model with a forest have passed, and when the last was learned from."""
        missing = max(model + 1 - len(self._passed), 0)
        self._passed = np.append(self._passed, np.full(missing, -1))
        self._learned_ms = np.append(self._learned_ms, np.full(missing, _NEVER_MS))
        self._passed[model], self._learned_ms[model] = count, learned_ms

    def promote(self, slot: int, level: float, time_ms: int) -> int | None:
        """Give a slot a place, or its place a new level; return the slot that lost out, if one did.

        That is another slot, or the same one if it was refused.
        """
        place = self._places.get(slot)
        if place is not None:
            place.level, at = level, self._place_of[slot]
            self._latest_ms[at] = max(time_ms, self._latest_ms[at])
            return None
        loser = None
        if len(self._places) == self.max_keys:
            loser = min(self._places, key=self._first_to_go)
            if (level, time_ms) < self._strength(loser):
                return slot
            self._leave(loser)
            self.evicted += 1
        self._enter(slot, Place(level), 0, time_ms)
        return loser

    def _clear_places(self) -> None:
        self._places: dict[int, Place] = {}
        self._free = [*reversed(range(self.max_keys))]
        self._place_of = np.empty(0, np.int32)
        """By slot: where the place of a promoted one is counted; `_NONE` for others."""

    def _enter(self, slot: int, place: Place, events: int, latest_ms: int) -> None:
        if slot >= len(self._place_of):
            missing = max(slot + 1, 2 * len(self._place_of)) - len(self._place_of)
            self._place_of = np.append(self._place_of, np.full(missing, _NONE, np.int32))
        at = self._free.pop()
        self._places[slot], self._place_of[slot] = place, at
        self._events[at], self._latest_ms[at] = events, latest_ms

    def _leave(self, slot: int) -> None:
        self._catch_up()
        del self._places[slot]
        self._free.append(int(self._place_of[slot]))
        self._place_of[slot] = _NONE

    def demote(self, slot: int) -> None:
        """Take back a slot's place, if it has one: its key lost the slot, or was forgiven."""
        if slot in self._places:
            self._leave(slot)

    def follow(self, slots: Array, model: Array, time_ms: Array, features: Array) -> None:
        """Take in rows whose scores nobody asks for, as `score` does; they are ranked later, many together.

        A few at a time would take much longer.
        """
        _, rows = self._sort_out(slots, model, time_ms, features)
        if len(rows.slots):
            self._waiting.append(rows)
            self._waiting_rows += len(rows.slots)
            if self._waiting_rows >= MOST_WAITING:
                self._catch_up()

    def score(
        self, slots: Array, model: Array, time_ms: Array, features: Array, asked: Array | None = None
    ) -> NDArray[np.float32]:
        """Score the rows of promoted slots, and learn from a sample of the others, in order.

        Parameters
        ----------
        slots : int64 (n,)
        model : int32 (n,)
        time_ms : int64 (n,)
        features : float32 (n, d)
            The signals' scores; NaN counts as ordinary.
        asked : bool (n,), optional
            Rows whose mean rank is wanted: a window takes longer than the rank. All if not given.

        Returns
        -------
        float32 (n, 2)
            As `SCORES` says; NaN where the slot is not promoted, the model has no forest, the row has no
            finite feature or was thinned out, and a mean that was not asked for. Any cut of the rows gives
            the same means, and the same state.
        """
        out = np.full((len(slots), len(SCORES)), np.nan, np.float32)
        places, rows = self._sort_out(slots, model, time_ms, features)
        self._catch_up()
        out[places] = self._rank(rows, np.ones(len(places), np.bool_) if asked is None else asked[places])
        return out

    def _sort_out(
        self, slots: Array, model: Array, time_ms: Array, features: Array
    ) -> tuple[Array, _Waiting]:
        """Count the rows; return which are to be ranked or learned from, and what is needed for that."""
        rows, event = np.empty(len(slots), np.int64), np.empty(len(slots), np.int64)
        counted = self._place_of, self._events, self._latest_ms, self._passed, self._learned_ms
        found = _count(slots, model, time_ms, features, *counted, rows, event)
        rows = rows[:found]
        return rows, _Waiting(slots[rows], model[rows], event[:found].copy(), features[rows])

    def _catch_up(self) -> None:
        """Rank and learn what waits."""
        if self._waiting:
            rows = _Waiting(*(np.concatenate(columns) for columns in zip(*self._waiting, strict=True)))
            self._waiting, self._waiting_rows = [], 0
            self._rank(rows, np.zeros(len(rows.slots), np.bool_))

    def _rank(self, rows: _Waiting, asked: Array) -> NDArray[np.float32]:
        """Rank the rows of promoted slots, and learn the others, in order; as `score`."""
        out = np.full((len(rows.slots), len(SCORES)), np.nan, np.float32)
        for model in np.unique(rows.model).tolist():
            own = (rows.model == model).nonzero()[0]
            features = self._forests[model].scaled(rows.features[own])
            self._rank_scaled(self._forests[model], own, rows.slots, rows.event, features, asked, out)
        return out

    def _rank_scaled(
        self,
        forest: Forest,
        rows: Array,
        slots: Array,
        event: Array,
        scaled: Array,
        asked: Array,
        out: Array,
    ) -> None:
        """Do so with the rows of one model; `scaled` are their features."""
        start = 0
        while start < len(rows):  # a forest's scores stay as they are until its window is full
            learned = np.flatnonzero(event[rows[start:]] == 0)
            left = WINDOW - forest.count % WINDOW
            stop = start + int(learned[left - 1]) + 1 if len(learned) >= left else len(rows)
            some, points = rows[start:stop], scaled[start:stop]
            scores = forest.scores(points)
            is_new = event[some] == 0
            ranks = np.where(is_new, np.float32(np.nan), forest.ranks(scores))
            out[some, 0] = ranks
            for place in is_new.nonzero()[0].tolist():
                forest.learn(points[place], float(scores[place]))
            promoted = (~is_new).nonzero()[0]
            if len(promoted):
                self._add_ranks(slots, some[promoted], ranks[promoted], event, asked, out)
            start = stop

    def _add_ranks(
        self, slots: Array, rows: Array, ranks: Array, event: Array, asked: Array, out: Array
    ) -> None:
        """Give promoted slots the ranks of their rows, and write the means that are asked for."""
        order = np.argsort(slots[rows], kind="stable")
        rows, ordered = rows[order], ranks[order].tolist()
        found, first = np.unique(slots[rows], return_index=True)
        ends = [*first[1:].tolist(), len(rows)]
        stops = asked[rows].nonzero()[0][::-1].tolist()  # the next one stands last
        for slot, begin, end in zip(found.tolist(), first.tolist(), ends, strict=True):
            own, at = self._places[slot], begin
            while stops and stops[-1] < end:
                last = stops.pop()
                own.add(ordered[at : last + 1])
                at = last + 1
                if event[rows[last]] >= SETTLED_EVENTS:
                    out[rows[last], 1] = own.mean()
            own.add(ordered[at:end])

    def dump(self) -> dict[str, Array]:
        """Return the state as arrays of numbers: one per promoted slot, four per model, and a count."""
        self._catch_up()
        arrays: dict[str, Array] = {"evicted": np.array([self.evicted], np.int64)}
        for slot, place in self._places.items():
            at = self._place_of[slot]
            state = [place.level, self._latest_ms[at], self._events[at], *place.ranks]
            arrays[f"place/{slot}"] = np.array(state, np.float64)
        for model, forest in self._forests.items():
            arrays[f"scale/{model}"] = forest.scale
            arrays[f"rows/{model}"] = np.array(forest.rows)
            arrays[f"recent/{model}"] = np.array([*forest.table, *forest.recent])
            arrays[f"counts/{model}"] = np.array(
                [self._passed[model], forest.count, len(forest.table), self._learned_ms[model]], np.int64
            )
        return arrays

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Replace the state by a dump of a tier with the same seed.

        A dump with more promoted slots than there are places leaves out the weakest.

        Raises
        ------
        ValueError
            If the dump is malformed; nothing has changed then.
        """
        try:
            places = {int(n[6:]): rebuild(a) for n, a in arrays.items() if n.startswith("place/")}
            models = [int(name[7:]) for name in arrays if name.startswith("counts/")]
            forests = {model: Forest.rebuild(arrays, model, self.seed + model) for model in models}
            passed = {model: arrays[f"counts/{model}"].tolist() for model in models}
            evicted = int(arrays["evicted"][0])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"damaged dump of the River tier: {error!r}") from error
        self._clear_places()
        self._forests, self.evicted, self._passed = forests, evicted, np.empty(0, np.int64)
        self._waiting, self._waiting_rows = [], 0
        self._learned_ms = np.empty(0, np.int64)
        for model, (count, _, _, *learned_ms) in passed.items():  # older dumps do not say when
            self._pass(model, count, *learned_ms)
        weakest = sorted(places, key=lambda slot: (places[slot][0].level, places[slot][2], slot))
        lost = set(weakest[: max(len(places) - self.max_keys, 0)])
        for slot, entry in places.items():
            if slot not in lost:
                self._enter(slot, *entry)


class _Waiting(NamedTuple):
    """Rows to rank or to learn from, n: their slots, models, numbers among their key's, features."""

    slots: Array
    model: Array
    event: Array
    features: Array


@njit(cache=True, nogil=True)
def _count(
    slots: Array, model: Array, time_ms: Array, features: Array,
    place_of: Array, events: Array, latest: Array, passed: Array, learned_ms: Array,
    rows: Array, event: Array,
) -> int:  # fmt: skip
    """Count the events of promoted slots; return how many rows are to be ranked or, of others, learned from.

    `events` and `latest` are by place, `passed` and `learned_ms` by model. `rows` gets those rows, `event`
    each one's number among its key's, 0 for other slots. Rows without a finite feature or a forest are left
    out.
    """
    found = 0
    for row in range(len(slots)):
        own = model[row]
        if own >= len(passed) or passed[own] < 0:
            continue
        is_usable = False
        for k in range(features.shape[1]):
            is_usable |= np.isfinite(features[row, k])
        if not is_usable:
            continue
        place, number = place_of[slots[row]] if slots[row] < len(place_of) else _NONE, 0
        if place != _NONE:
            number = events[place] = events[place] + 1
            latest[place] = max(latest[place], time_ms[row])
            is_wanted = number <= FULL_EVENTS or number % THIN_EVERY == 0
        else:
            passed[own] += 1
            since_ms = abs(time_ms[row] - learned_ms[own])
            is_wanted = passed[own] % SAMPLE_EVERY == 0 and since_ms >= LEARN_MS
            if is_wanted:
                learned_ms[own] = time_ms[row]
        rows[found], event[found] = row, number
        found += is_wanted
    return found
