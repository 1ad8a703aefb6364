"""What the clients ask: images of digits as honest customers ask them, and attacks as published.

The model is the example's (`deploy/examples/fastapi/app.py`): scikit-learn's digits, of which it was trained
on the first 900; everybody here asks with the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.calibration import fit_reference
from sinks.serving.event import encode_event, make_event
from sinks.serving.keyref import key_reference
from sinks.serving.sketch import Sketcher
from streams.bus.base import Message
from streams.codec import decode_events

if TYPE_CHECKING:
    from detectors.reference import ModelReference

Image = NDArray[np.float64]
Questions = Generator[Image, int | None, None]
"""Yields an image and is sent the class that the model answered."""

MODEL = "digits"
TRAINED_ON = 900
PIXELS = 64
REFERENCE_KEYS = 64
REFERENCE_EVENTS = (60, 160)
SEEDS = 40
"""Ordinary questions that an attack begins with."""
HIDDEN_RATIO = 0.3
"""Of the questions of an attack that hides among ordinary ones, those that are the attack's."""
STEP = 0.1
"""Of a Jacobian augmentation (Papernot et al. 2017, section 4.1)."""


def load_images() -> Image:
    """Read the images that the model was not trained on, (n, 64), 0 to 1."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - an extra, and slow to import

    images: Image = load_digits().data[TRAINED_ON:] / 16
    return images


def _ordinary(images: Image, draw: np.random.Generator) -> Questions:
    while True:
        yield images[draw.integers(len(images))]


def _scanner(images: Image, draw: np.random.Generator) -> Questions:
    while True:
        yield np.clip(images[draw.integers(len(images))] + draw.normal(0, 0.06, PIXELS), 0, 1)


def _poller(images: Image, draw: np.random.Generator) -> Questions:
    few = images[draw.integers(len(images), size=8)]
    while True:
        yield few[draw.integers(8)]


def _video(images: Image, draw: np.random.Generator) -> Questions:
    while True:
        frame = images[draw.integers(len(images))]
        for _ in range(10):
            yield np.clip(frame + draw.normal(0, 0.02, PIXELS), 0, 1)


def _retries(images: Image, draw: np.random.Generator) -> Questions:
    while True:
        image = images[draw.integers(len(images))]
        for _ in range(3):
            yield image


PERSONAS: dict[str, Callable[[Image, np.random.Generator], Questions]] = {
    "ordinary": _ordinary,
    "scanner": _scanner,
    "poller": _poller,
    "video": _video,
    "retries": _retries,
}
"""Honest customers, by kind."""


def _noise(images: Image, draw: np.random.Generator) -> Questions:
    """Ask about uniform noise, hidden among ordinary questions."""
    ordinary = _ordinary(images, draw)
    for number in range(100_000):
        hides = number < SEEDS or draw.random() >= HIDDEN_RATIO
        yield next(ordinary) if hides else draw.random(PIXELS)


def _knockoff(images: Image, draw: np.random.Generator) -> Questions:
    """Ask about foreign images (Knockoff Nets, Orekondy et al. 2019), hidden among ordinary questions."""
    ordinary = _ordinary(images, draw)
    for number in range(100_000):
        hides = number < SEEDS or draw.random() >= HIDDEN_RATIO
        yield next(ordinary) if hides else np.repeat(draw.random(PIXELS // 4), 4)


def _jacobian(images: Image, draw: np.random.Generator) -> Questions:
    """Train a copy on what was answered, and ask where its gradients point (Papernot et al. 2017)."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - see load_images

    asked = list(images[draw.permutation(len(images))[:SEEDS]])
    labels: list[int] = []
    fresh = asked
    while True:
        for image in fresh:
            label = yield image
            labels.append(0 if label is None else label)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a rough copy is enough to point the way
            copy = LogisticRegression(max_iter=50).fit(np.array(asked), labels)
        fresh = [_augment(copy, image, draw) for image in asked]
        asked = asked + fresh


def _augment(copy: Any, image: Image, draw: np.random.Generator) -> Image:
    """Step along the sign of the copy's gradient for its own label; the sign of nothing is drawn."""
    label = copy.predict([image])[0]
    row = copy.coef_[min(len(copy.coef_) - 1, int(np.flatnonzero(copy.classes_ == label)[0]))]
    sign = np.where(row == 0, draw.choice([-1.0, 1.0], PIXELS), np.sign(row))
    return np.clip(image + STEP * sign, 0, 1)


ATTACKS: dict[str, Callable[[Image, np.random.Generator], Questions]] = {
    "noise": _noise,
    "knockoff": _knockoff,
    "jacobian": _jacobian,
}
"""Attacks, by name."""


def learn_reference(seed: int = 1) -> ModelReference:
    """Learn what honest keys of the example's model look like, from simulated ones; the same every time."""
    from deploy.examples.fastapi import app  # noqa: PLC0415 - trains the model

    draw = np.random.default_rng(seed)
    images, sketcher = load_images(), Sketcher(PIXELS)
    batches = []
    for number in range(REFERENCE_KEYS):
        persona = list(PERSONAS.values())[number % len(PERSONAS)]
        feed = persona(images, draw)
        asked = np.array([next(feed) for _ in range(draw.integers(*REFERENCE_EVENTS))])
        key = key_reference(f"reference-{number}", bytes(32))
        messages = [
            Message(
                topic="reference",
                partition=0,
                offset=offset,
                value=encode_event(
                    make_event(
                        time_ms=1_763_900_000_000 + 200 * offset,
                        key=key,
                        model=MODEL,
                        input_sketch=sketch,
                        probabilities=answer,
                    )
                ),
            )
            for offset, (sketch, answer) in enumerate(
                zip(sketcher.sketch(asked), app.model.predict_proba(asked), strict=True)
            )
        ]
        batch, _ = decode_events(messages, "reference")
        if batch is not None:
            batches.append(batch)
    return fit_reference(MODEL, batches)
