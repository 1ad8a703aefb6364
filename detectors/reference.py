"""What benign traffic of one model looks like: the event level, and the key level above it.

`EventReference` says how far single events lie from each other; `KeyReference` how far benign keys do. Both
are learned by `detectors.calibration`, compared with by the signals and `detectors.profile`, immutable, and
kept as bytes on the reference topic or in a file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

from detectors.arrays import ArrayFormatError, named, pack_arrays, unpack_arrays
from detectors.statistics import STATISTICS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REFERENCE_VERSION = 2
STATISTIC_NAMES = tuple(statistic.name for statistic in STATISTICS)


@dataclass(frozen=True, slots=True)
class EventReference:
    """Where the events of benign keys lie. C classes; a sketch has 32 numbers.

    Attributes
    ----------
    classes : int64 (C,)
        Predicted classes with enough events to have a centre of their own, ascending.
    input_centres, embedding_centres : float32 (C + 1, 32)
        Mean sketch per class; the last row is the mean over all, for every other class.
    input_whitening, embedding_whitening : float32 (32, 32)
        W such that |(x - centre) W| is the Mahalanobis distance with the pooled within-class covariance.
    overall_whitening : float32 (32, 32)
        The same for input sketches around the overall mean with the overall covariance.
    pair_distance : float32 (1,)
        Median distance between the input sketches of two random events.
    ring_centre : float32 (32,)
        What the remembered sketches are quantised around. It and `pair_distance` never change while keys
        remember sketches: a repeat must stay one.
    familiar_points : float32 (32, P)
        Input sketches of benign keys, one a column, by class (`detectors.familiar`); none if keys were not
        told apart.
    familiar_start : int64 (C + 2,)
        Where each class's points begin, then those of all other classes, then P.
    familiar_distance : float32 (1,)
        An input so close to a point of its class is familiar.
    distance_table, embedding_table, overall_table, hardness_table : float32 (up to 1024,)
        Sorted quantiles of the benign scores, for conformal p-values.
    """

    classes: NDArray[np.int64]
    input_centres: NDArray[np.float32]
    embedding_centres: NDArray[np.float32]
    input_whitening: NDArray[np.float32]
    embedding_whitening: NDArray[np.float32]
    overall_whitening: NDArray[np.float32]
    pair_distance: NDArray[np.float32]
    ring_centre: NDArray[np.float32]
    distance_table: NDArray[np.float32]
    embedding_table: NDArray[np.float32]
    overall_table: NDArray[np.float32]
    hardness_table: NDArray[np.float32]
    familiar_points: NDArray[np.float32]
    familiar_start: NDArray[np.int64]
    familiar_distance: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class KeyReference:
    """How benign keys differ. S statistics (`detectors.statistics`), G groups of them, K knots.

    Attributes
    ----------
    mean, within_variance, between_variance : float32 (S,)
        Random-effects model of each statistic: its mean over keys, the variance of one event's value within
        a key, and the variance of a key's own mean between keys.
    median, high : float32 (S,)
        Median and 99th percentile over keys of the key's own mean: what explanations call expected.
    tail_knots, tail_surprise : float32 (S + G, K)
        Per statistic, then per group for the largest surprise in it: -ln of the share of
        benign keys whose lifetime maximum exceeds a value, at ascending knots; a group's is divided by its
        share of the budget.
    tail_slope : float32 (S + G,)
        Growth of that surprise per unit beyond the last knot (exponential tail); extrapolated there.
    key_count : int64 (1,)
        Benign keys behind it.
    """

    mean: NDArray[np.float32]
    within_variance: NDArray[np.float32]
    between_variance: NDArray[np.float32]
    median: NDArray[np.float32]
    high: NDArray[np.float32]
    tail_knots: NDArray[np.float32]
    tail_surprise: NDArray[np.float32]
    tail_slope: NDArray[np.float32]
    key_count: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RiverReference:
    """What River's forests are trained with, and how high benign keys rank (`detectors.secondopinion`).

    Attributes
    ----------
    sample : float32 (m, len(FEATURES))
        Features of benign events.
    knots, surprise : float32 (K,)
        Lifetime tail of a benign key's mean rank.
    slope : float32 (1,)
        Growth of the surprise per unit beyond the last knot.
    """

    sample: NDArray[np.float32]
    knots: NDArray[np.float32]
    surprise: NDArray[np.float32]
    slope: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ExtractionReference:
    """What ordinary traffic spreads over (`detectors.budget`).

    Attributes
    ----------
    cells : float32 (K,)
        Cells of the input space that so many random queries reach, four knots to an octave, from one query.
    label_nats : float32 (1,)
        Entropy of the answers' classes of the median benign key.
    fresh : float32 (1,)
        Mean weight of the queries of the median benign key; near copies count less.
    held : float32 (keys,)
        The most queries that each benign key held, ascending.
    """

    cells: NDArray[np.float32]
    label_nats: NDArray[np.float32]
    fresh: NDArray[np.float32]
    held: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a reference was learned from, bounded (`detectors.lesson`): m benign events, K benign keys.

    Attributes
    ----------
    input_sketch, embedding_sketch : float16 (m, 32)
    predicted_class : int32 (m,)
    margin : float16 (m,)
    owner : int32 (m,)
        Number of the key that sent the event, any number a key; -1 where keys were not told apart.
    value_mass, value_mean, value_square : float32 (K, V)
        Of each key: the weight of each value, its mean, its summed squared deviations.
    z_peak : float32 (K, S)
        The key's largest z-values.
    fresh : float32 (K, 2)
        Summed weight of the key's queries, and their number.
    held : float32 (K,)
        The most queries that it held.
    label_nats : float32 (K,)
        Entropy of its answers' classes.
    attacker_ratio : float32 (1,)
        Share of the keys that may be attackers.
    """

    input_sketch: NDArray[np.float16]
    embedding_sketch: NDArray[np.float16]
    predicted_class: NDArray[np.int32]
    margin: NDArray[np.float16]
    owner: NDArray[np.int32]
    value_mass: NDArray[np.float32]
    value_mean: NDArray[np.float32]
    value_square: NDArray[np.float32]
    z_peak: NDArray[np.float32]
    fresh: NDArray[np.float32]
    held: NDArray[np.float32]
    label_nats: NDArray[np.float32]
    attacker_ratio: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelAlarmReference:
    """How odd benign keys are together (`detectors.modelalarm`).

    Attributes
    ----------
    scale : float64 (2,)
        Mean of the benign keys' surprise, and its standard deviation around that.
    knots, surprise : float32 (K,)
        Tail of the largest z of a window.
    slope : float32 (1,)
        Growth of the surprise per unit beyond the last knot.
    """

    scale: NDArray[np.float64]
    knots: NDArray[np.float32]
    surprise: NDArray[np.float32]
    slope: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Both levels for one model, and what more was learned: live traffic teaches neither River nor alarm."""

    model: str
    event: EventReference
    key: KeyReference
    river: RiverReference | None = None
    extraction: ExtractionReference | None = None
    alarm: ModelAlarmReference | None = None
    lesson: Lesson | None = None

    @property
    def version(self) -> str:
        """Content hash, 16 hex digits; stands in every alert."""
        return blake2b(self.dump(), digest_size=8).hexdigest()

    def dump(self) -> bytes:
        """Write as bytes."""
        arrays: dict[str, NDArray[Any]] = {}
        for level in ("event", "key", "river", "extraction", "alarm", "lesson"):
            part = getattr(self, level)
            if part is not None:
                arrays |= {f"{level}.{name}": array for name, array in as_arrays(part).items()}
        meta = {"model": self.model, "statistics": STATISTIC_NAMES}
        return pack_arrays("reference", REFERENCE_VERSION, arrays, meta)

    @classmethod
    def load(cls, blob: bytes) -> Self:
        """Read what `dump` wrote.

        Raises
        ------
        detectors.arrays.ArrayFormatError
            If the bytes are damaged, of another version, or learned with other statistics.
        """
        arrays, meta = unpack_arrays(blob, "reference", REFERENCE_VERSION)
        if tuple(meta["statistics"]) != STATISTIC_NAMES:
            raise ArrayFormatError(
                f"the reference of model {meta['model']} was learned with other statistics than this version "
                f"compares; learn it again"
            )
        parts = {name: named(arrays, name) for name in ("river", "extraction", "alarm", "lesson")}
        return cls(
            model=str(meta["model"]),
            event=EventReference(**named(arrays, "event")),
            key=KeyReference(**named(arrays, "key")),
            river=RiverReference(**parts["river"]) if parts["river"] else None,
            extraction=ExtractionReference(**parts["extraction"]) if parts["extraction"] else None,
            alarm=ModelAlarmReference(**parts["alarm"]) if parts["alarm"] else None,
            lesson=Lesson(**parts["lesson"]) if parts["lesson"] else None,
        )


def as_arrays(
    level: EventReference
    | KeyReference
    | RiverReference
    | ExtractionReference
    | ModelAlarmReference
    | Lesson,
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a level by name."""
    return {field.name: getattr(level, field.name) for field in fields(level)}
