"""Line searches on a real model, in halves and in even steps, after ordinary seeds: found early, as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pytest

from detectors.alert import Alert
from detectors.batch import EventBatch, build_batch
from detectors.engine import Engine, EngineSettings
from sinks.serving.sketch import Sketcher
from streams.live.traffic import MODEL, PERSONAS, PIXELS, SEEDS, Image, learn_reference, load_images

Label = Callable[[Image], int]
Steps = Callable[[Image, Image, Label], Iterator[Image]]
Watch = Callable[[Iterator[Image]], list[Alert]]

QUERIES = 400
LATEST_NOTICE = 200
"""Queries until a notice at most, 40 of them ordinary seeds."""
EVERY_MS = 40_000
"""Slow enough that speed gives nobody away."""


def halves(start: Image, end: Image, label: Label) -> Iterator[Image]:
    """Halve eight times, towards where the answer changes (Tramer et al. 2016, section 5.1)."""
    own = label(start)
    for _ in range(8):
        middle = (start + end) / 2
        yield middle
        start, end = (middle, end) if label(middle) == own else (start, middle)


def even_steps(start: Image, end: Image, _: Label) -> Iterator[Image]:
    """Ask about nine points evenly spaced, none of which needs an answer to the one before."""
    for share in np.linspace(0.1, 0.9, 9):
        yield (1 - share) * start + share * end


def search(images: Image, draw: np.random.Generator, label: Label, steps: Steps) -> Iterator[Image]:
    """Ask ordinary questions, then along lines between two of them whose answers differ."""
    seeds = images[draw.permutation(len(images))[:SEEDS]]
    yield from seeds
    while True:
        start, end = seeds[draw.integers(SEEDS, size=2)]
        if label(start) != label(end):
            yield from steps(start, end, label)


def as_batch(images: Image, probabilities: Image) -> EventBatch:
    """Return the events of one key."""
    count, ordered = len(images), np.sort(probabilities, axis=1)
    return build_batch(
        key=np.ones((count, 2), np.uint64),
        time_ms=1_763_900_000_000 + EVERY_MS * np.arange(count, dtype=np.int64),
        model=np.zeros(count, np.int32),
        models=(MODEL,),
        topic="events",
        offset=np.arange(count, dtype=np.int64),
        input_sketch=np.asarray(Sketcher(PIXELS).sketch(images), np.float32),
        predicted_class=probabilities.argmax(axis=1).astype(np.int32),
        margin=(ordered[:, -1] - ordered[:, -2]).astype(np.float32),
        top1=ordered[:, -1].astype(np.float32),
    )


@pytest.fixture(scope="module")
def watch() -> Watch:
    """Return what lets a key ask some questions, one by one, and returns its alerts."""
    from deploy.examples.fastapi.app import model  # noqa: PLC0415 - trains the model

    reference = learn_reference()

    def run(questions: Iterator[Image]) -> list[Alert]:
        images = np.array(list(islice(questions, QUERIES)))
        engine = Engine(EngineSettings(), {MODEL: reference})
        batch = as_batch(images, model.predict_proba(images))
        return [one for row in range(QUERIES) for one in engine.process(batch.take(slice(row, row + 1)))]

    return run


@pytest.mark.parametrize("steps", [halves, even_steps])
def test_a_line_search_is_found_by_its_lines(watch: Watch, steps: Steps) -> None:
    from deploy.examples.fastapi.app import model  # noqa: PLC0415 - see watch

    def label(image: Image) -> int:
        return int(model.predict_proba(image[None])[0].argmax())

    for seed in range(3):
        alerts = watch(search(load_images(), np.random.default_rng(seed), label, steps))
        assert SEEDS < alerts[0].query_count <= LATEST_NOTICE
        assert "regularity" in alerts[0].families
        assert "warning" in {one.level for one in alerts}


def test_honest_keys_are_let_alone(watch: Watch) -> None:
    for seed, persona in enumerate(PERSONAS.values()):
        assert watch(persona(load_images(), np.random.default_rng(100 + seed))) == []
