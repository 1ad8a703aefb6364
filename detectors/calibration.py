"""Learning a reference from benign keys: what their events look like, and how far the keys differ.

Nothing here knows what an attack is. Every key counts the same at the event level (a bounded number of its
events), so that one busy key, or one attacker among them, cannot define what is normal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.budget import SPREAD_COLUMNS, Budget, fit_extraction
from detectors.familiar import learn_points
from detectors.keylevel import standardise, tail
from detectors.lesson import make_lesson
from detectors.modelalarm import fit_model_alarm
from detectors.reference import EventReference, ExtractionReference, KeyReference, ModelReference
from detectors.secondopinion import fit_river
from detectors.signals.familiarity import FAMILIAR_RATIO
from detectors.signals.out_of_distribution import class_rows, distances
from detectors.slabs import make_slabs
from detectors.statistics import GROUP_OF, GROUP_SHARES, HORIZONS, VALUE_OF, VALUES
from detectors.tails import fit_tail
from detectors.track import MEAN_FIELDS, TRACK_FIELDS, Track
from detectors.watch import read_tails

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from detectors.base import Slabs
    from detectors.batch import EventBatch
    from detectors.reference import ModelAlarmReference
    from detectors.track import Progress

EVENTS_PER_KEY = 64
"""Events that one key contributes to the event level."""
KNOTS = 1024
"""Quantiles kept of a benign score."""
CLASS_EVENTS = 20
"""Events a class needs for a centre of its own."""
TRIM_RATIO = 0.02
"""Share of the farthest events left out of centres and covariances (junk senders, attackers)."""
SHRINKAGE = 1e-3
"""Share of the mean variance added to every direction, so that flat directions do not explode."""
FOLDS = 4
"""Parts that benign keys are split into: what is measured of one part is learned from the others."""


class Sample(NamedTuple):
    """The columns of benign events that the event level is learned from, m rows."""

    input_sketch: NDArray[np.float32]
    embedding_sketch: NDArray[np.float32]
    predicted_class: NDArray[np.int32]
    margin: NDArray[np.float32]


class Spread(NamedTuple):
    """Random-effects model of every statistic: float32 (S,) each."""

    mean: NDArray[np.float32]
    within: NDArray[np.float32]
    between: NDArray[np.float32]
    median: NDArray[np.float32]
    high: NDArray[np.float32]


class Tails(NamedTuple):
    """Lifetime tails: knots and surprises (rows, K), slopes (rows,)."""

    knots: NDArray[np.float32]
    surprise: NDArray[np.float32]
    slope: NDArray[np.float32]


def fit_reference(model: str, batches: Sequence[EventBatch]) -> ModelReference:
    """Learn both levels from benign keys, one batch a key.

    Raises
    ------
    ValueError
        If there are fewer than two keys, or no event with a sketch.
    """
    if len(batches) < 2:
        raise ValueError(f"model {model}: {len(batches)} keys are too few to learn from; two are the least")
    samples = [sample_rows(batch, spread_rows(len(batch))) for batch in batches]
    peaks = np.empty((len(batches), len(VALUE_OF)), np.float32)
    held_z: dict[int, NDArray[np.float32]] = {}
    honest = make_slabs(MEAN_FIELDS, len(batches))
    for held_out in _folds(len(batches)):
        _, slabs, paths = _follow(samples, batches, ~held_out)
        spread = fit_spread({name: slab[~held_out] for name, slab in slabs.items()})
        held_z |= {k: z_values(paths[k], spread) for k in np.flatnonzero(held_out).tolist()}
        peaks[held_out] = [held_z[k].max(axis=0) for k in np.flatnonzero(held_out).tolist()]
        for name, slab in honest.items():
            slab[held_out] = slabs[name][held_out]
    event, slabs, paths = _follow(samples, batches, np.ones(len(batches), bool))
    told = fit_spread(honest)  # of keys the reference does not know: what a person is told to expect
    spread = fit_spread(slabs)._replace(median=told.median, high=told.high)
    key = make_key_reference(spread, fit_tails(peaks, GROUP_OF), len(batches))
    river = fit_river([path.features for path in paths])
    extraction, account = _fit_extraction(event, join_samples(samples), paths)
    lesson = make_lesson(samples, {**slabs, **account, "z_peak": peaks}, attacker_ratio=0.0)
    alarm = _fit_alarm(batches, held_z, key)
    return ModelReference(model, event, key, river, extraction, alarm, lesson)


def _fit_alarm(
    batches: Sequence[EventBatch], z: Mapping[int, NDArray[np.float32]], key: KeyReference
) -> ModelAlarmReference | None:
    """Learn how odd the keys are together, each compared with what it did not help to learn."""
    order = np.argsort(np.concatenate([batch.time_ms for batch in batches]), kind="stable")
    owner = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    surprise = np.concatenate([read_tails(z[k], key).overall for k in range(len(batches))])
    return fit_model_alarm(owner[order], surprise[order])


def _fit_extraction(
    event: EventReference, sample: Sample, paths: Sequence[Progress]
) -> tuple[ExtractionReference, dict[str, NDArray[Any]]]:
    """Learn what ordinary traffic spreads over, then what each key held at most by that measure.

    Return also each key's entropy of classes, freshness and holding, as `make_lesson` takes them.
    """
    seen = [path.spread[np.isfinite(path.spread[:, 0])] for path in paths]
    last = np.array([spread[-1] if len(spread) else np.zeros(SPREAD_COLUMNS) for spread in seen])
    draft = fit_extraction(event, sample.input_sketch, last[:, 2], last[:, 3:], np.empty(0, np.float32))
    held = [np.nan_to_num(Budget(draft).parts(spread)[:, 0]).max(initial=0) for spread in seen]
    account = {"label_nats": last[:, 2], "fresh": last[:, 3:], "held": np.array(held)}
    return replace(draft, held=np.sort(held).astype(np.float32)), account


def _folds(count: int) -> list[NDArray[np.bool_]]:
    """Split keys into folds, so that no key is measured by what it helped to learn."""
    folds = min(FOLDS, count)
    return [np.arange(count) % folds == fold for fold in range(folds)]


def _follow(
    samples: Sequence[Sample], batches: Sequence[EventBatch], chosen: NDArray[np.bool_]
) -> tuple[EventReference, Slabs, list[Progress]]:
    """Learn events from the chosen keys, and follow every key with them."""
    event = fit_key_events([s for s, taken in zip(samples, chosen, strict=True) if taken])
    track = Track(event)
    slabs = make_slabs(TRACK_FIELDS, len(batches))
    paths = [
        track.advance(batch, np.arange(len(batch)), np.full(len(batch), k), slabs)
        for k, batch in enumerate(batches)
    ]
    return event, slabs, paths


def fit_key_events(samples: Sequence[Sample]) -> EventReference:
    """Learn where benign events lie, one sample a key, and remember inputs to be familiar with."""
    event = fit_events(join_samples(samples))
    points, start, distance = learn_points(
        [s.input_sketch for s in samples],
        [class_rows(s.predicted_class, event.classes) for s in samples],
        len(event.classes) + 1,
        FAMILIAR_RATIO,
    )
    return replace(event, familiar_points=points, familiar_start=start, familiar_distance=distance)


def sample_rows(batch: EventBatch, rows: NDArray[np.int64]) -> Sample:
    """Take the columns that the event level needs, of some rows."""
    return Sample(*(getattr(batch, name)[rows] for name in Sample._fields))


def join_samples(samples: Sequence[Sample]) -> Sample:
    """Join samples in order."""
    return Sample(*(np.concatenate(column) for column in zip(*samples, strict=True)))


def take_rows(sample: Sample, rows: NDArray[np.int64] | slice) -> Sample:
    """Return some rows of a sample."""
    return Sample(
        sample.input_sketch[rows],
        sample.embedding_sketch[rows],
        sample.predicted_class[rows],
        sample.margin[rows],
    )


def spread_rows(count: int) -> NDArray[np.int64]:
    """Choose at most `EVENTS_PER_KEY` of a key's rows, evenly over its life."""
    return np.linspace(0, count - 1, min(count, EVENTS_PER_KEY)).astype(np.int64)


def fit_events(sample: Sample, trim_ratio: float = TRIM_RATIO) -> EventReference:
    """Learn where benign events lie.

    Raises
    ------
    ValueError
        If no event has a sketch.
    """
    inputs, embeddings = sample.input_sketch, sample.embedding_sketch
    if not np.isfinite(inputs).any() and not np.isfinite(embeddings).any():
        raise ValueError("no event carries a sketch; there is nothing to learn a distance from")
    found, counts = np.unique(sample.predicted_class, return_counts=True)
    classes = found[counts >= CLASS_EVENTS].astype(np.int64)
    row = class_rows(sample.predicted_class, classes)
    centres = [_centres(sketch, row, len(classes), trim_ratio) for sketch in (inputs, embeddings)]
    overall = _centres(inputs, np.zeros_like(row), 0, trim_ratio)
    blank = np.zeros(1, np.float32)
    draft = EventReference(
        classes=classes,
        input_centres=centres[0][0],
        embedding_centres=centres[1][0],
        input_whitening=centres[0][1],
        embedding_whitening=centres[1][1],
        overall_whitening=overall[1],
        pair_distance=_pair_distance(inputs),
        ring_centre=overall[0][-1],
        distance_table=blank,
        embedding_table=blank,
        overall_table=blank,
        hardness_table=_table(1 - sample.margin),
        familiar_points=np.empty((inputs.shape[1], 0), np.float32),
        familiar_start=np.zeros(len(classes) + 2, np.int64),
        familiar_distance=blank,
    )
    tables = [_table(column) for column in distances(draft, inputs, embeddings, sample.predicted_class).T]
    return replace(draft, distance_table=tables[0], embedding_table=tables[1], overall_table=tables[2])


def fit_spread(slabs: Mapping[str, NDArray[Any]], contamination_ratio: float = 0.0) -> Spread:
    """Learn the random-effects model from the keys' lifetime moments (slabs of `detectors.track`).

    The variance between keys is the method of moments of DerSimonian and Laird (Controlled Clinical Trials,
    1986) with equal weights: the variance of the keys' means less what events alone would give. The means
    are clipped to their quantiles at `contamination_ratio` from either end first.
    """
    mass = slabs["value_mass"].astype(float)
    seen = mass > 1
    share = np.where(seen, mass, 0)
    within = (slabs["value_square"] * seen).sum(axis=0) / np.maximum(share.sum(axis=0), 1)
    columns = []
    for v in range(mass.shape[1]):
        means = slabs["value_mean"][seen[:, v], v].astype(float)
        least = VALUES[v].least_spread ** 2
        if not len(means):
            columns.append((0.0, within[v], least, 0.0, 0.0))
            continue
        low, high = np.quantile(means, [contamination_ratio, 1 - contamination_ratio])
        clipped = np.clip(means, low, high)
        noise = within[v] * np.mean(1 / mass[seen[:, v], v])
        between = max(np.var(clipped) - noise, least)
        columns.append((np.mean(clipped), within[v], between, np.median(clipped), np.quantile(clipped, 0.99)))
    return Spread(*(np.array(column, np.float32)[VALUE_OF] for column in zip(*columns, strict=True)))


def z_values(path: Progress, spread: Spread) -> NDArray[np.float32]:
    """Standardise running means: float32 (n, S), -inf where a statistic has seen too little."""
    z = np.empty_like(path.mean)
    standardise(path.mean, path.mass, HORIZONS, spread.mean, spread.within, spread.between, z)
    return z


def fit_tails(
    peaks: NDArray[np.float32], group_of: NDArray[np.int64] | None = None, contamination_ratio: float = 0.0
) -> Tails:
    """Learn the lifetime tails from the keys' peaks (K, S): a row a statistic, then a row a group.

    `group_of` (S,) numbers each statistic's group; one group if not given. With a contamination ratio the
    largest keys count as censored, since they may be attackers.
    """
    groups = np.zeros(peaks.shape[1], np.int64) if group_of is None else group_of
    censored = int(np.ceil(contamination_ratio * len(peaks)))
    rows = [fit_tail(column, censored=censored, empirical_top=False) for column in peaks.T]
    by_statistic = _held_out_surprises(peaks, censored)
    members = [groups == group for group in range(groups.max() + 1)]
    alive = [share for share, own in zip(GROUP_SHARES, members, strict=False) if (peaks[:, own] > 0).any()]
    for share, own in zip(GROUP_SHARES, members, strict=False):
        row = fit_tail(by_statistic[:, own].max(axis=1), censored=censored, empirical_top=not censored)
        penalty = -np.log(min(share / sum(alive), 1)) if alive else 0.0
        rows.append((row[0], np.maximum(row[1] - penalty, 0).astype(np.float32), row[2]))
    knots, surprise, slope = zip(*rows, strict=True)
    return Tails(np.array(knots, np.float32), np.array(surprise, np.float32), np.array(slope, np.float32))


def _held_out_surprises(values: NDArray[np.float32], censored: int) -> NDArray[np.float32]:
    """Read each key's values (K, n) in the tails of the other folds' keys."""
    out = np.empty_like(values)
    for held_out in _folds(len(values)):
        tails = [fit_tail(column, censored=censored, empirical_top=False) for column in values[~held_out].T]
        for k in np.flatnonzero(held_out):
            out[k] = [tail(value, *row) for value, row in zip(values[k], tails, strict=True)]
    return out


def make_key_reference(spread: Spread, tails: Tails, key_count: int) -> KeyReference:
    """Put the key level together."""
    return KeyReference(
        mean=spread.mean,
        within_variance=spread.within,
        between_variance=spread.between,
        median=spread.median,
        high=spread.high,
        tail_knots=tails.knots,
        tail_surprise=tails.surprise,
        tail_slope=tails.slope,
        key_count=np.array([key_count], np.int64),
    )


def _centres(
    sketch: NDArray[np.float32], row: NDArray[np.int64], classes: int, trim_ratio: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return class centres (classes + 1, d) and the whitening of the pooled covariance around them."""
    size = sketch.shape[1]
    good = np.isfinite(sketch).all(axis=1)
    if good.sum() < 2:
        return np.zeros((classes + 1, size), np.float32), np.eye(size, dtype=np.float32)
    points, row = sketch[good].astype(float), row[good]
    far = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    keep = far <= np.quantile(far, 1 - trim_ratio)
    points, row = points[keep], row[keep]
    centres = np.tile(points.mean(axis=0), (classes + 1, 1))
    for c in range(classes):
        if (row == c).sum() >= CLASS_EVENTS // 2:
            centres[c] = points[row == c].mean(axis=0)
    apart = points - centres[np.minimum(row, classes)]
    covariance = apart.T @ apart / len(apart)
    covariance += np.eye(size) * max(SHRINKAGE * np.trace(covariance) / size, 1e-12)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return centres.astype(np.float32), whitening.astype(np.float32)


def _pair_distance(sketch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median distance between rows half the sample apart: no key is compared with itself alone."""
    points = sketch[np.isfinite(sketch).all(axis=1)].astype(float)
    half = len(points) // 2
    if half == 0:
        return np.ones(1, np.float32)
    distance = np.median(np.linalg.norm(points[:half] - points[half : 2 * half], axis=1))
    return np.array([max(distance, 1e-6)], np.float32)


def _table(score: NDArray[np.float32]) -> NDArray[np.float32]:
    ordered = np.sort(score[np.isfinite(score)])
    if len(ordered) == 0:
        return np.zeros(1, np.float32)
    if len(ordered) > KNOTS:
        ordered = np.quantile(ordered, (np.arange(KNOTS) + 0.5) / KNOTS)
    return ordered.astype(np.float32)
