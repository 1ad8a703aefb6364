"""The campaign detector of one model: summaries of its keys in, linked groups that share one workload out.

At every look, free keys are linked into groups by what they had asked until then (content), and by what is
odd about it (behaviour). What they ask from then on is kept apart and tests the link: the group must still
agree, and its keys must share the work more evenly than honest customers do (`detectors.campaign.pace`).
Links rest on content and the test on volumes, so choosing the groups does not spoil the test.

Keys that are known to be one customer's are no campaign for being alike. They are judged as one key instead
(`detectors.campaign.pooled`).

Blind to: keys that are fed in uneven shares on purpose, by factors as honest customers differ; keys that ask
for nothing in common; fewer than four keys. Blind the other way: a fleet of honest devices, a key each, whose
owner is not declared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from detectors.campaign.finding import CampaignFinding
from detectors.campaign.links import MEMBERS, agreement, find_groups, multiply
from detectors.campaign.pace import CAMPAIGN_BUDGETS, pace_p_values
from detectors.campaign.pooled import judge, pool, z_values
from detectors.campaign.summaries import Summaries
from detectors.watch import THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Slabs
    from detectors.campaign.finding import LinkKind
    from detectors.modelrows import ModelRows
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
LOOK_MS = 60_000
"""Least time between looks, so that a busy model is not looked at all the time."""
MOST_WAIT_EVENTS = 4096
"""A look that came too early waits as many events again as have passed since the last, up to this many:
batches end at looks, and small batches are slow."""
PERIOD_LOOKS = 4
"""Looks after which all groups are dissolved and linked anew, so that keys that came later find theirs."""
STRANGER_LOG_RATIO = 1.0
"""A member whose volume differs from the median by more than this, in ln, is left out of the finding."""
NEWS_RATIO = 0.1
"""A campaign is told again when so many of its keys are new in it, or its level rose."""
WEEK_MS = 7 * 86_400_000
STATE_COUNTERS = (
    "events",
    "next_look",
    "looks",
    "next_group",
    "week",
    "tested",
    "tested_before",
    "looked_ms",
    "looked_events",
)


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
        piece: ModelRows,
        declared: NDArray[np.int32],
        slabs: Slabs,
        reference: ModelReference | None,
    ) -> list[CampaignFinding]:
        """Summarise rows of one model, at most `until_next_look`, and look for campaigns when it is time.

        Parameters
        ----------
        piece
            The events and the slots of their keys.
        declared
            Whose key each row's is known to be (tenant, payer), -1 where that is not known. Keys of one owner
            are judged together, and their likeness alone is no finding.
        slabs
            Running means of the keys, up to the last of these events.
        reference
            What honest keys of the model look like; without one nothing is linked.
        """
        self._summaries.add(piece.slots, piece.time_ms, declared, piece.batch.input_sketch, piece.rows)
        self._counters["events"] += len(piece.rows)
        if self.until_next_look > 0 or not len(piece.rows):
            return []
        gap = max(LOOK_EVENTS, LOOK_EVENTS_PER_KEY * len(self._summaries))
        self._counters["next_look"] = self._counters["events"] + gap
        now_ms = int(piece.time_ms[-1])
        if reference is None or 0 <= now_ms - self._counters["looked_ms"] < LOOK_MS:
            waited = self._counters["events"] - self._counters["looked_events"]
            self._counters["next_look"] += max(min(waited, MOST_WAIT_EVENTS) - gap, 0)
            return []
        self._counters["looked_ms"], self._counters["looked_events"] = now_ms, self._counters["events"]
        self._counters["looks"] += 1
        self._begin_week(now_ms // WEEK_MS)
        return self._look(slabs, reference, int(piece.rows[-1]))

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
        unknown = set(columns["group"].tolist()) - {0, *self._groups}
        if unknown:
            raise ValueError(f"campaign summaries name groups {sorted(unknown)} that are not in the dump")

    def _look(self, slabs: Slabs, reference: ModelReference, row: int) -> list[CampaignFinding]:
        """Test the groups there are, now and then dissolve them all, and link free keys into new ones."""
        known = _Known(self._summaries, slabs, reference)
        findings = self._test_groups(known, row)
        if self._counters["looks"] % PERIOD_LOOKS == 0:
            self._dissolve()
        for kind in _KINDS:
            self._link(kind, known)
        return findings + self._judge_owners(slabs, reference.key, row)

    def _test_groups(self, known: _Known, row: int) -> list[CampaignFinding]:
        """Test the groups on what came after their links."""
        numbers, members, edges = _split(self._summaries["group"])
        total = self._summaries["count"][members].astype(np.int64)
        since = total - self._summaries["mark"][members]
        # Groups that outlive a pause of weeks are in no week's count.
        linked = max(self._counters["tested"] + self._counters["tested_before"], len(self._groups))
        tests = PERIOD_LOOKS * linked
        p_values = np.minimum(pace_p_values(since, total, edges) * tests, 1.0)
        findings = []
        for group in np.flatnonzero(p_values <= CAMPAIGN_BUDGETS[0]).tolist():
            kind, own = self._groups[int(numbers[group])], members[edges[group] : edges[group + 1]]
            finding = self._accuse(kind, own, float(p_values[group]), known, row)
            findings += [] if finding is None else [finding]
        return findings

    def _accuse(
        self, kind: LinkKind, members: NDArray[np.int64], p_value: float, known: _Known, row: int
    ) -> CampaignFinding | None:
        """Make a finding of a group that shares its work evenly, if it holds together and is news."""
        level = sum(p_value <= budget for budget in CAMPAIGN_BUDGETS)
        if self._same_owner(members) or not self._is_news(members, level):
            return None
        fresh = known.profiles(kind, members, "fresh")
        holds = agreement(known.profiles(kind, members, "linked"), fresh[fresh.any(axis=1)])
        if holds < HOLD_COSINE:
            return None
        # Strangers that the test tolerates are not accused.
        total = self._summaries["count"][members].astype(np.int64)
        apart = np.abs(np.log((total + 0.5) / (np.median(total) + 0.5)))
        return self._finding(row, members[apart < STRANGER_LOG_RATIO], kind, level, p_value, holds)

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
        if (self._summaries["owner"] < 0).all():
            return []
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

    def _link(self, kind: LinkKind, known: _Known) -> None:
        """Form groups of free keys; what they ask from now on tests them."""
        free = (self._summaries["group"] == 0) & (self._summaries["slot"] >= 0)
        rows = np.flatnonzero(free & (self._summaries["count"] >= LEAST_QUERIES))
        profiles = known.profiles(kind, rows, "linked")
        odd = profiles.any(axis=1)
        rows, profiles = rows[odd], profiles[odd]
        for found in find_groups(profiles, LINK_COSINE[kind], self._counters["looks"]):
            number = self._counters["next_group"]
            self._groups[number] = kind
            self._counters["next_group"] += 1
            self._counters["tested"] += 1
            self._summaries["group"][rows[found]] = number
            self._summaries["mark"][rows[found]] = self._summaries["count"][rows[found]]

    def _dissolve(self) -> None:
        """Let all groups go: their members' fresh part joins what they can be linked by."""
        self._groups.clear()
        summaries = self._summaries
        summaries["group"][:] = 0
        for part in ("", "_mass"):
            summaries[f"linked{part}"][:] += summaries[f"fresh{part}"]
            summaries[f"fresh{part}"][:] = 0

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


class _Known(NamedTuple):
    """What profiles are made of."""

    summaries: Summaries
    slabs: Slabs
    reference: ModelReference

    def profiles(
        self, kind: LinkKind, rows: NDArray[np.int64], part: Literal["linked", "fresh"]
    ) -> NDArray[np.float32]:
        """Return the profiles (len(rows), d) of some keys, from what came before the link or after it."""
        return self._content(rows, part) if kind == "content" else self._behaviour(rows)

    def _content(self, rows: NDArray[np.int64], part: str) -> NDArray[np.float32]:
        """Return mean sketches around the model's centre, whitened; 0 where there is no sketch."""
        mass = self.summaries[f"{part}_mass"][rows, None]
        centre = self.reference.event.input_centres[-1]
        mean = np.where(mass > 0, self.summaries[part][rows] / np.maximum(mass, 1) - centre, 0)
        return multiply(mean.astype(np.float32), self.reference.event.overall_whitening)

    def _behaviour(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return how far running means lie above those of honest keys; 0 unless one lies far."""
        slots = self.summaries["slot"][rows]
        z = np.clip(
            z_values(self.slabs["mean"][slots], self.slabs["mass"][slots], self.reference.key), 0, Z_LIMIT
        )
        return np.where(z.max(axis=1, keepdims=True) >= ODD_Z, z, np.float32(0))


def _split(group: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of groups of at least `MEMBERS`, their rows one group after the other, and edges."""
    rows = np.flatnonzero(group)
    order = rows[np.argsort(group[rows], kind="stable")]
    numbers, at, counts = np.unique(group[order], return_inverse=True, return_counts=True)
    large = counts >= MEMBERS
    edges = np.concatenate([[0], np.cumsum(counts[large])])
    return numbers[large], order[large[at]], edges
