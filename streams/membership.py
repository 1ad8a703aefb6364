"""A worker's part in its consumer group, and how it learns that it has none.

Two workers with one `consumer_instance_id` push each other out. Kafka tells one of them so if both join in
the same moment, with an error that aiokafka does not know; otherwise it lets the newcomer in and the other
out, without a new generation, and that one comes back.

Who calls it: the worker, on its event loop. Nothing here blocks.
"""

from __future__ import annotations

from collections import deque

from streams.errors import ModelwardenError

TWIN_JOINS, TWIN_WINDOW_S = 5, 30.0
"""So often within so long a worker joins one generation of its group only if another has its instance id."""


class Membership:
    """What one worker has seen of its group.

    Parameters
    ----------
    group
        The consumer group.
    instance_id
        The worker's `consumer_instance_id`, if it has one.
    """

    def __init__(self, group: str, instance_id: str | None) -> None:
        self._group = group
        self._instance_id = instance_id
        self._joins: deque[tuple[int, float]] = deque(maxlen=TWIN_JOINS)

    def joined(self, generation: int, now_s: float) -> None:
        """Take note of a join. Raises ModelwardenError if another worker takes this one's place again."""
        self._joins.append((generation, now_s))
        is_often = len(self._joins) == TWIN_JOINS and now_s - self._joins[0][1] < TWIN_WINDOW_S
        if self._instance_id is not None and is_often and len({joined for joined, _ in self._joins}) == 1:
            raise self._has_twin()

    def check(self, failure: BaseException | None) -> None:
        """Raise ModelwardenError if a failure has ended this worker's part in its group."""
        if failure is None:
            return
        if self._instance_id is not None and "UnknownError" in repr(failure):
            raise self._has_twin() from failure
        raise ModelwardenError(
            f"consumer_group {self._group}",
            f"Kafka gives this worker no partitions: {failure!r}",
            "Check that it may read the group (`modelwarden doctor`), then start it again",
        ) from failure

    def _has_twin(self) -> ModelwardenError:
        return ModelwardenError(
            f"consumer_instance_id {self._instance_id}",
            "another worker of this consumer group has it too, and they push each other out",
            "Stop the other worker, or give each an id of its own",
        )
