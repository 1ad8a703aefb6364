"""What is watched of one model beside its keys' own state: the comparison, campaigns, the model's alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectors.arrays import pack_arrays, unpack_arrays
from detectors.campaign import CampaignDetector
from detectors.keysummary import nearest, notice_z
from detectors.learner import Learner
from detectors.modelalarm import ModelAlarm
from detectors.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from detectors.keysummary import Nearest
    from detectors.reference import Lesson, ModelReference


class ModelWatch:
    """The detectors of one model.

    Parameters
    ----------
    name : str
    reference : ModelReference, optional
        What its keys are compared with; without one the model learns from its own traffic.
    lesson : Lesson, optional
        What honest keys of other models teach, for a model that learns.
    campaign_keys : int
        Keys summarised to find campaigns among them.

    Attributes
    ----------
    watch : Watch or Learner
    campaigns : CampaignDetector
    alarm : ModelAlarm
    """

    def __init__(
        self, name: str, reference: ModelReference | None, lesson: Lesson | None, campaign_keys: int
    ) -> None:
        self.name = name
        self.watch = Learner(name, lesson) if reference is None else Watch(reference)
        self.campaigns = CampaignDetector(campaign_keys)
        self.alarm = ModelAlarm(None if reference is None else reference.alarm)
        self._reach: tuple[str, NDArray[np.float64]] | None = None

    @property
    def current(self) -> Watch | None:
        """What keys are compared with now; None while nothing is learned."""
        return self.watch.watch if isinstance(self.watch, Learner) else self.watch

    @property
    def learned(self) -> ModelReference | None:
        """What the model has learned by itself; None if it was given a reference, or watches nothing yet."""
        learns = isinstance(self.watch, Learner) and self.watch.watch is not None
        return self.watch.current.reference if learns else None

    @property
    def until_next_stop(self) -> int:
        """Events that may be processed before it learns or looks for campaigns."""
        looks = self.campaigns.until_next_look
        return min(looks, self.watch.until_next_fit) if isinstance(self.watch, Learner) else looks

    def nearest(self, mean: NDArray[np.float32], mass: NDArray[np.float32]) -> tuple[Nearest, ...]:
        """Say what of a key comes nearest to a notice; what that takes is worked out once a reference."""
        current = self.current
        if current is None:
            return ()
        if self._reach is None or self._reach[0] != current.version:
            self._reach = current.version, notice_z(current.reference.key)
        return nearest(current.reference.key, self._reach[1], mean, mass)

    def forget(self, slots: NDArray[np.int64]) -> None:
        """Drop keys that lost their slots."""
        self.campaigns.forget(slots)
        self.alarm.forget(slots)

    def parts(self, number: int, version: int) -> Iterator[tuple[str, bytes]]:
        """Yield the state as named parts; `number` is the model's own."""
        if isinstance(self.watch, Learner):
            yield f"learner/{number}", pack_arrays("learner", version, *self.watch.dump())
        yield f"campaigns/{number}", pack_arrays("campaigns", version, *self.campaigns.dump())
        yield f"alarm/{number}", pack_arrays("alarm", version, *self.alarm.dump())

    def restore(self, parts: Mapping[str, bytes], number: int, version: int) -> None:
        """Replace the state by its parts; a model that has a reference by now leaves what it learned.

        Raises
        ------
        KeyError, ValueError, TypeError, detectors.arrays.ArrayFormatError
            If a part is missing, damaged, or does not fit.
        """
        if isinstance(self.watch, Learner) and f"learner/{number}" in parts:
            self.watch.restore(*unpack_arrays(parts[f"learner/{number}"], "learner", version))
        self.campaigns.restore(*unpack_arrays(parts[f"campaigns/{number}"], "campaigns", version))
        self.alarm.restore(*unpack_arrays(parts[f"alarm/{number}"], "alarm", version))
