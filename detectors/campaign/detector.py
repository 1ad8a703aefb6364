"""The campaign detector of one model: summaries of its keys in, linked groups that share one workload out.

At every look, free keys are linked into groups by what they had asked until then (content), and by what is odd
about it (behaviour). What they ask from then on is kept apart and tests the link: the group must still agree in
content, and its keys must share the work more evenly than honest customers do (`detectors.campaign.pace`).
Link and test rest on different events and on different features, so choosing the groups does not spoil the test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from detectors.campaign.links import MEMBERS, agreement, find_groups
from detectors.campaign.pace import pace_p_value
from detectors.campaign.summaries import Summaries
from detectors.keylevel import standardise
from detectors.statistics import HORIZONS
from detectors.watch import BUDGETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Slabs
    from detectors.batch import EventBatch
    from detectors.reference import ModelReference

LinkKind = Literal["content", "behaviour"]
_KINDS: tuple[LinkKind, ...] = ("content", "behaviour")

KEYS_PER_MODEL = 16_384
"""Keys of a model summarised at once."""
LEAST_QUERIES = 4
"""Queries of a key before it can be linked."""
LINK_COSINE = {"content": 0.5, "behaviour": 0.8}
"""Keys are linked when their profiles are this close to the group's centre."""
HOLD_COSINE = 0.25
"""The median of what members ask after the link must still be this close to the centre."""
ODD_Z = 2.5
"""A key's behaviour is a profile only if one of its statistics is this many standard deviations from honest ones."""
Z_LIMIT = 8.0
LOOK_EVENTS = 64
LOOK_EVENTS_PER_KEY = 3
"""Events between looks: so many, or so many a key summarised if that is more."""
PERIOD_LOOKS = 4
"""Looks after which all groups are dissolved and linked anew, so that keys that came later find theirs."""
NEWS_RATIO = 0.1
"""A campaign is told again when so many of its keys are new in it, or its level rose."""
WEEK_MS = 7 * 86_400_000
STATE_COUNTERS = ("events", "next_look", "looks", "next_group", "week", "tested", "tested_before")


class CampaignFinding(NamedTuple):
    """Keys that are one: as of one event."""

    row: int
    """Row of the batch whose event completed it."""
    slots: NDArray[np.int64]
    """The members' slots, ascending."""
    kind: LinkKind
    level: int
    """1 notice, 2 warning, 3 critical."""
    p_value: float
    """Expected number of honest groups of this model so even, among all those tested in a week."""
    counts: NDArray[np.int64]
    """Queries of each member in all."""
    agreement: float
    """Median cosine of what members asked after the link with what linked them."""


class CampaignDetector:
    """Find campaigns among the keys of one model.

    Parameters
    ----------
    capacity
        Keys summarised at once; `detectors.campaign.summaries.SUMMARY_BYTES` each.
    """

    def __init__(self, capacity: int = KEYS_PER_MODEL) -> None:
        self._summaries = Summaries(capacity)
        self._groups: dict[int, LinkKind] = {}
        self._counters = dict.fromkeys(STATE_COUNTERS, 0) | {"next_look": LOOK_EVENTS, "next_group": 1}

    @property
    def until_next_look(self) -> int:
        """Events until the next look; a batch must not reach beyond it."""
        return self._counters["next_look"] - self._counters["events"]

    @property
    def nbytes(self) -> int:
        """Bytes of the summaries."""
        return self._summaries.nbytes

    def forget(self, slots: NDArray[np.int64]) -> None:
        """Tell that these slots belong to other keys from now on."""
        self._summaries.forget(slots)

    def process(
        self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs, reference: ModelReference | None
    ) -> list[CampaignFinding]:
        """Summarise the rows of one model, at most `until_next_look`, and look for campaigns when it is time.

        Parameters
        ----------
        batch, slots
            The events and the slots of their keys.
        slabs
            Running means of the keys, up to the last of these events.
        reference
            What honest keys of the model look like; without one nothing is linked.
        """
        absent = ~np.isfinite(batch.input_sketch).all(axis=1, keepdims=True)
        sketch = np.where(absent, batch.embedding_sketch, batch.input_sketch)
        self._summaries.add(slots, batch.time_ms, batch.tenant, sketch)
        self._counters["events"] += len(batch)
        if self.until_next_look > 0 or not len(batch):
            return []
        self._counters["looks"] += 1
        gap = max(LOOK_EVENTS, LOOK_EVENTS_PER_KEY * len(self._summaries))
        self._counters["next_look"] = self._counters["events"] + gap
        if reference is None:
            return []
        self._begin_week(int(batch.time_ms[-1]) // WEEK_MS)
        return self._look(slabs, reference, len(batch) - 1)

    def dump(self) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
        """Return the state as arrays and numbers."""
        columns, hand = self._summaries.dump()
        groups = [(number, _KINDS.index(kind)) for number, kind in self._groups.items()]
        columns["groups"] = np.array(groups, np.int64).reshape(len(groups), 2)
        return columns, self._counters | {"hand": hand}

    def restore(self, columns: Mapping[str, NDArray[Any]], numbers: Mapping[str, int]) -> None:
        """Replace the state by a dump.

        Raises
        ------
        ValueError, KeyError
            If the dump does not fit.
        """
        self._summaries.restore(columns, numbers["hand"])
        self._counters = {name: int(numbers[name]) for name in STATE_COUNTERS}
        self._groups = {int(number): _KINDS[kind] for number, kind in columns["groups"]}

    def _look(self, slabs: Slabs, reference: ModelReference, row: int) -> list[CampaignFinding]:
        """Test the groups there are, dissolve those that had their time, and link free keys into new ones."""
        profiles = {
            "content": self._content("linked", reference),
            "behaviour": self._behaviour(slabs, reference),
        }
        fresh = {"content": self._content("fresh", reference), "behaviour": profiles["behaviour"]}
        findings = []
        for number, kind in list(self._groups.items()):
            members = np.flatnonzero(self._summaries["group"] == number)
            finding = self._test(kind, members, profiles[kind], fresh[kind], row)
            findings += [] if finding is None else [finding]
        if self._counters["looks"] % PERIOD_LOOKS == 0:
            self._dissolve()
            profiles["content"] = self._content("linked", reference)
        for kind in _KINDS:
            self._link(kind, profiles[kind])
        return findings

    def _test(
        self,
        kind: LinkKind,
        members: NDArray[np.int64],
        linked: NDArray[np.float32],
        fresh: NDArray[np.float32],
        row: int,
    ) -> CampaignFinding | None:
        """Test a group on what came after its link."""
        if len(members) < MEMBERS or self._same_tenant(members):
            return None
        total = self._summaries["count"][members].astype(np.int64)
        since = total - self._summaries["mark"][members]
        tests = PERIOD_LOOKS * (self._counters["tested"] + self._counters["tested_before"])
        p_value = min(pace_p_value(since, total) * tests, 1.0)
        level = sum(p_value <= budget for budget in BUDGETS)
        told = self._summaries["told"]
        if not level or (told[members] < level).mean() < NEWS_RATIO:
            return None
        seen = members[fresh[members].any(axis=1)]
        holds = agreement(linked[members], fresh[seen])
        if holds < HOLD_COSINE:
            return None
        told[members] = np.maximum(told[members], level)
        slots = self._summaries["slot"][members].astype(np.int64)
        order = np.argsort(slots)
        return CampaignFinding(row, slots[order], kind, level, p_value, total[order], holds)

    def _link(self, kind: LinkKind, profiles: NDArray[np.float32]) -> None:
        """Form groups of free keys; what they ask from now on tests them."""
        ready = (self._summaries["group"] == 0) & (self._summaries["count"] >= LEAST_QUERIES)
        rows = np.flatnonzero(ready & (self._summaries["slot"] >= 0) & profiles.any(axis=1))
        for found in find_groups(profiles[rows], LINK_COSINE[kind], self._counters["looks"]):
            members = rows[found]
            number = self._counters["next_group"]
            self._groups[number] = kind
            self._counters["next_group"] += 1
            self._counters["tested"] += 1
            self._summaries["group"][members] = number
            self._summaries["mark"][members] = self._summaries["count"][members]

    def _dissolve(self) -> None:
        """Let all groups go: their members' fresh part joins what they can be linked by."""
        self._groups.clear()
        summaries = self._summaries
        summaries["group"][:] = 0
        for part in ("", "_mass"):
            summaries[f"linked{part}"][:] += summaries[f"fresh{part}"]
            summaries[f"fresh{part}"][:] = 0

    def _content(self, part: str, reference: ModelReference) -> NDArray[np.float32]:
        """Return mean sketches around the model's centre, whitened; 0 where there is no sketch."""
        mass = self._summaries[f"{part}_mass"][:, None]
        centre = reference.event.input_centres[-1]
        mean = np.where(mass > 0, self._summaries[part] / np.maximum(mass, 1) - centre, 0)
        return np.asarray(mean @ reference.event.overall_whitening, np.float32)

    def _behaviour(self, slabs: Slabs, reference: ModelReference) -> NDArray[np.float32]:
        """Return how far the keys' running means lie above those of honest keys; 0 unless one lies far."""
        slots = np.maximum(self._summaries["slot"], 0)
        z = np.empty((len(slots), len(HORIZONS)), np.float32)
        key = reference.key
        standardise(
            slabs["mean"][slots], slabs["mass"][slots], HORIZONS,
            key.mean, key.within_variance, key.between_variance, z,
        )  # fmt: skip
        z = np.clip(np.nan_to_num(z, nan=0.0, neginf=0.0), 0, Z_LIMIT)
        return np.where(z.max(axis=1, keepdims=True) >= ODD_Z, z, np.float32(0))

    def _same_tenant(self, members: NDArray[np.int64]) -> bool:
        """Tell whether all members are known to be one customer's: then their agreement is no news."""
        tenants = self._summaries["tenant"][members]
        return bool(tenants[0] >= 0 and (tenants == tenants[0]).all())

    def _begin_week(self, week: int) -> None:
        """Count the groups tested this week and the last."""
        if week > self._counters["week"]:
            follows = week == self._counters["week"] + 1
            self._counters["tested_before"] = self._counters["tested"] if follows else 0
            self._counters["week"], self._counters["tested"] = week, 0


