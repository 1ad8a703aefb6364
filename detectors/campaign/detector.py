"""The campaign detector of one model: summaries of its keys in, linked groups that share one workload out.

At every look, free keys are linked into groups by what they had asked until then (content), and by what is
odd about it (behaviour). What they ask from then on is kept apart and tests the link: the group must still
agree, and its keys must share the work more evenly than honest customers do (`detectors.campaign.pace`).
Links rest on content and the test on volumes, so choosing the groups does not spoil the test.

Keys that are known to be one customer's are no campaign for being alike. They are judged as one key instead
(`detectors.campaign.pooled`).

Blind to: keys that are fed in uneven shares on purpose, by factors as honest customers differ; keys that ask
for nothing in common; fewer than four keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.campaign.finding import CampaignFinding
from detectors.campaign.links import MEMBERS, agreement, find_groups
from detectors.campaign.pace import pace_p_value
from detectors.campaign.pooled import judge, pool, z_values
from detectors.campaign.summaries import Summaries
from detectors.watch import BUDGETS, THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Slabs
    from detectors.batch import EventBatch
    from detectors.campaign.finding import LinkKind
    from detectors.reference import KeyReference, ModelReference

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
"""A key's behaviour is a profile only if one of its statistics is so many standard deviations from honest."""
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
        self,
        batch: EventBatch,
        slots: NDArray[np.int64],
        declared: NDArray[np.int32],
        slabs: Slabs,
        reference: ModelReference | None,
    ) -> list[CampaignFinding]:
        """Summarise the rows of one model, at most `until_next_look`, and look for campaigns when it is time.

        Parameters
        ----------
        batch, slots
            The events and the slots of their keys.
        declared
            Whose key each row's is known to be (tenant, payer), -1 where that is not known. Keys of one owner
            are judged together, and their likeness alone is no finding.
        slabs
            Running means of the keys, up to the last of these events.
        reference
            What honest keys of the model look like; without one nothing is linked.
        """
        self._summaries.add(slots, batch.time_ms, declared, batch.input_sketch)
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
        return findings + self._judge_owners(slabs, reference.key, row)

    def _test(
        self,
        kind: LinkKind,
        members: NDArray[np.int64],
        linked: NDArray[np.float32],
        fresh: NDArray[np.float32],
        row: int,
    ) -> CampaignFinding | None:
        """Test a group on what came after its link."""
        if len(members) < MEMBERS or self._same_owner(members):
            return None
        total = self._summaries["count"][members].astype(np.int64)
        since = total - self._summaries["mark"][members]
        tests = PERIOD_LOOKS * (self._counters["tested"] + self._counters["tested_before"])
        p_value = min(pace_p_value(since, total) * tests, 1.0)
        level = sum(p_value <= budget for budget in BUDGETS)
        seen = members[fresh[members].any(axis=1)]
        holds = agreement(linked[members], fresh[seen])
        if not level or holds < HOLD_COSINE or not self._is_news(members, level):
            return None
        return self._finding(row, members, kind, level, p_value, holds)

    def _is_news(self, members: NDArray[np.int64], level: int) -> bool:
        """Tell whether enough of the keys have not been told of at this level."""
        return bool((self._summaries["told"][members] < level).mean() >= NEWS_RATIO)

    def _finding(
        self, row: int, members: NDArray[np.int64], kind: LinkKind, level: int, p_value: float, holds: float
    ) -> CampaignFinding:
        """Put a finding together and remember that its keys were told of."""
        self._summaries["told"][members] = np.maximum(self._summaries["told"][members], level)
        slots = self._summaries["slot"][members].astype(np.int64)
        order = np.argsort(slots)
        counts = self._summaries["count"][members].astype(np.int64)
        return CampaignFinding(row, slots[order], kind, level, p_value, counts[order], holds)

    def _judge_owners(self, slabs: Slabs, key: KeyReference, row: int) -> list[CampaignFinding]:
        """Judge the keys of each declared owner as one key, by their pooled running means."""
        held = np.flatnonzero((self._summaries["owner"] >= 0) & (self._summaries["slot"] >= 0))
        owners, member_of, keys = np.unique(
            self._summaries["owner"][held], return_inverse=True, return_counts=True
        )
        slots = self._summaries["slot"][held].astype(np.int64)
        pooled = pool(slabs["mean"][slots], slabs["mass"][slots], member_of, len(owners))
        surprise = judge(*pooled, key)
        findings = []
        for owner in np.flatnonzero((keys > 1) & (surprise >= THRESHOLDS[0])).tolist():
            members = held[member_of == owner]
            level = int((surprise[owner] >= THRESHOLDS).sum())
            if self._is_news(members, level):
                p_value = float(np.exp(-surprise[owner]))
                findings.append(self._finding(row, members, "declared", level, p_value, 1.0))
        return findings

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
        z = np.clip(z_values(slabs["mean"][slots], slabs["mass"][slots], reference.key), 0, Z_LIMIT)
        return np.where(z.max(axis=1, keepdims=True) >= ODD_Z, z, np.float32(0))

    def _same_owner(self, members: NDArray[np.int64]) -> bool:
        """Tell whether all members are known to be one customer's: then their agreement is no news."""
        owners = self._summaries["owner"][members]
        return bool(owners[0] >= 0 and (owners == owners[0]).all())

    def _begin_week(self, week: int) -> None:
        """Count the groups tested this week and the last."""
        if week > self._counters["week"]:
            follows = week == self._counters["week"] + 1
            self._counters["tested_before"] = self._counters["tested"] if follows else 0
            self._counters["week"], self._counters["tested"] = week, 0
