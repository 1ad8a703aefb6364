"""A small victim with honest customers, and attacks on it as published, for tests of generality.

Nothing here was used to choose a statistic or a threshold: the recordings were. Images are 12 x 12 blots of
eight classes; the victim is one layer of random features with a ridge readout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.batch import build_batch
from sinks.serving.sketch import Sketcher

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.batch import EventBatch

SIDE, CLASSES, HIDDEN = 12, 8, 128
SIZE = SIDE * SIDE
MODEL = "blots"


class Victim:
    """A classifier of blots, and the events that its serving layer would emit."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.centres = rng.uniform(2, SIDE - 2, (CLASSES, 3, 2))
        self.features = rng.standard_normal((SIZE, HIDDEN)) / np.sqrt(SIZE)
        label = rng.integers(0, CLASSES, 4000)
        hidden = self.hidden(self.draw(rng, label))
        gram = hidden.T @ hidden + 0.3 * np.eye(HIDDEN)
        self.readout = np.linalg.solve(gram, hidden.T @ (12 * np.eye(CLASSES)[label]))
        self.sketchers = Sketcher(input_size=SIZE), Sketcher(input_size=HIDDEN)

    def draw(self, rng: np.random.Generator, label: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draw an image of each class: three blots that move, grow and fade a little."""
        centre = self.centres[label] + rng.normal(0, 0.7, (len(label), 3, 2))
        width, light = (
            rng.uniform(0.9, 1.6, (len(label), 3, 1, 1)),
            rng.uniform(0.6, 1, (len(label), 3, 1, 1)),
        )
        y, x = np.mgrid[:SIDE, :SIDE]
        square = (y - centre[..., :1, None]) ** 2 + (x - centre[..., 1:, None]) ** 2
        image = (light * np.exp(-square / (2 * width**2))).max(axis=1)
        drawn: NDArray[np.float64] = np.clip(
            image.reshape(len(label), SIZE) + rng.normal(0, 0.02, (len(label), SIZE)), 0, 1
        )
        return drawn

    def hidden(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the penultimate activations."""
        hidden: NDArray[np.float64] = np.maximum(images @ self.features - 0.05, 0)
        return hidden

    def answer(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the class probabilities."""
        logit = self.hidden(images) @ self.readout
        odds = np.exp(logit - logit.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
        return probabilities

    def events(self, number: int, images: NDArray[np.float64]) -> EventBatch:
        """One key's events, two seconds apart."""
        ranked = np.sort(self.answer(images), axis=1)
        sketches = [
            np.array([sketcher.sketch(row) for row in rows], np.float16)
            for sketcher, rows in zip(self.sketchers, (images, self.hidden(images)), strict=True)
        ]
        return build_batch(
            key=np.tile(np.array([[number, number]], np.uint64), (len(images), 1)),
            time_ms=2000 * np.arange(len(images), dtype=np.int64),
            model=np.zeros(len(images), np.int32),
            models=(MODEL,),
            topic="events",
            offset=np.arange(len(images), dtype=np.int64),
            input_sketch=sketches[0],
            embedding_sketch=sketches[1],
            predicted_class=self.answer(images).argmax(axis=1),
            margin=ranked[:, -1] - ranked[:, -2],
        )


def honest(victim: Victim, number: int, count: int = 240) -> NDArray[np.float64]:
    """A customer's images: plain, few classes, dim and noisy, video, augmented, or polled; by the number."""
    rng = np.random.default_rng([7, number])
    mix = rng.dirichlet(np.full(CLASSES, (5.0, 0.3)[number % 6 == 1]))
    label = rng.choice(CLASSES, count, p=mix)
    images = victim.draw(rng, label)
    match number % 6:
        case 2:
            images = np.clip(images * rng.uniform(0.6, 1) + rng.normal(0, 0.06, images.shape), 0, 1)
        case 3:  # runs of 20 frames that drift
            first = np.repeat(images[::20], 20, axis=0)[:count]
            drift = np.cumsum(rng.normal(0, 0.01, images.shape), axis=0)
            images = np.clip(first + drift - np.repeat(drift[::20], 20, axis=0)[:count], 0, 1)
        case 4:  # five augmentations of each
            images = np.repeat(images[::5], 5, axis=0)[:count]
            images = np.clip(
                images * rng.uniform(0.8, 1.1, (count, 1)) + rng.normal(0, 0.03, images.shape), 0, 1
            )
        case 5:
            images = images[rng.integers(0, 30, count)]
    return images


def gaussian(victim: Victim, rng: np.random.Generator) -> NDArray[np.float64]:  # noqa: ARG001 - one signature
    """Gaussian probing."""
    return np.clip(rng.normal(0.5, 0.25, (200, SIZE)), 0, 1)


def data_free(victim: Victim, rng: np.random.Generator) -> NDArray[np.float64]:  # noqa: ARG001 - one signature
    """DFME (Truong et al., CVPR 2021): a batch of a generator, then the same moved by 1e-3."""
    rounds = []
    for _ in range(4):
        batch = 0.5 + 0.5 * np.tanh(rng.standard_normal((64, 16)) @ rng.standard_normal((16, SIZE)) / 2)
        step = rng.standard_normal(batch.shape)
        rounds += [batch, batch + 1e-3 * step / np.linalg.norm(step, axis=1, keepdims=True)]
    return np.concatenate(rounds)


def mixup(victim: Victim, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mixtures of ordinary images."""
    images = victim.draw(rng, rng.integers(0, CLASSES, 600))
    return 0.5 * (images[:300] + images[300:])


def hop_skip_jump(victim: Victim, rng: np.random.Generator) -> NDArray[np.float64]:
    """HopSkipJump (Chen et al., S&P 2020): bisection to the boundary, a hundred directions, a step, again."""
    start, target = victim.draw(rng, np.array([0, 1]))
    wanted = victim.answer(target[None]).argmax()
    sent, point = [start, target], target
    for _ in range(4):
        low, high = start, point
        for _ in range(10):
            middle = (low + high) / 2
            sent.append(middle)
            low, high = (low, middle) if victim.answer(middle[None]).argmax() == wanted else (middle, high)
        point = high
        direction = rng.standard_normal((100, SIZE))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        around = point + 0.1 * np.linalg.norm(point - start) * direction
        sent += list(around)
        sign = np.where(victim.answer(around).argmax(axis=1) == wanted, 1.0, -1.0)
        gradient = (sign[:, None] * direction).mean(axis=0)
        point = point + 0.3 * np.linalg.norm(point - start) * gradient / np.linalg.norm(gradient)
        sent.append(point)
    return np.array(sent)


def antithetic(victim: Victim, rng: np.random.Generator) -> NDArray[np.float64]:
    """NES (Ilyas et al., ICML 2018): pairs on either side of a point that moves."""
    point, sent = victim.draw(rng, np.array([2]))[0], []
    for _ in range(6):
        step = 0.02 * rng.standard_normal((25, SIZE))
        sent += [point + sign * one for one in step for sign in (1, -1)]
        point = point + 0.3 * step.mean(axis=0)
    return np.array(sent)


def finite_differences(victim: Victim, rng: np.random.Generator) -> NDArray[np.float64]:
    """Equation solving (Tramer et al., USENIX Security 2016): an image, then each pixel moved by itself."""
    images = victim.draw(rng, rng.integers(0, CLASSES, 2))
    return np.concatenate([np.vstack([image, image + 0.2 * np.eye(SIZE)]) for image in images])


def active_boundary(victim: Victim, rng: np.random.Generator) -> NDArray[np.float64]:
    """DFAL (Ducoffe and Precioso, 2018; as in ActiveThief): images, then each moved over the boundary."""
    seeds = victim.draw(rng, rng.integers(0, CLASSES, 100))
    moved = []
    for image in seeds:
        low, high = image, seeds[rng.integers(0, 100)]
        label = victim.answer(image[None]).argmax()
        for _ in range(12):  # on the attacker's own copy, so nothing of it is sent
            middle = (low + high) / 2
            same = victim.answer(middle[None]).argmax() == label
            low, high = (middle, high) if same else (low, middle)
        moved.append(high)
    return np.concatenate([seeds, moved])


def jacobian(victim: Victim, rng: np.random.Generator) -> NDArray[np.float64]:
    """Jacobian augmentation (Papernot et al., AsiaCCS 2017) of 60 seeds, three rounds."""
    known = victim.draw(rng, rng.integers(0, CLASSES, 60))
    for _ in range(3):
        label = victim.answer(known).argmax(axis=1)
        active = known @ victim.features > 0.05
        slope = (active * victim.readout[:, label].T) @ victim.features.T
        known = np.concatenate([known, np.clip(known + 0.1 * np.sign(slope), 0, 1)])
    return known
