"""Jobs that may leave memory, in the order in which they were looked at last.

Knows: how many there may be, and how much they may weigh: a spec may carry 256 KiB, and what a requester holds in memory is
not for those to decide who submit. Must not know: which jobs these are, or when one of them may leave.
"""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from protocol.ids import JobKey
from requester.live import Live

_encoder = msgspec.msgpack.Encoder()


class Recent:
    """Jobs with a record, at most `count_max` of them and `size_max_bytes`, encoded; but for one, which may always be there.
    In memory they take two to three times that."""

    def __init__(self, count_max: int, size_max_bytes: int) -> None:
        self._count_max = max(count_max, 1)
        self._size_max_bytes = size_max_bytes
        self._jobs: OrderedDict[JobKey, Live] = OrderedDict()
        self._sizes: dict[JobKey, int] = {}
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, key: object) -> bool:
        return key in self._jobs

    def __iter__(self) -> Iterator[Live]:
        return iter(self._jobs.values())

    def get(self, key: JobKey) -> Live | None:
        """The job of this key, if it is one of them."""
        return self._jobs.get(key)

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return len(self._jobs) >= self._count_max or self._size_bytes >= self._size_max_bytes

    @property
    def overfull(self) -> bool:
        """Whether some should leave."""
        many = len(self._jobs) > self._count_max or self._size_bytes > self._size_max_bytes
        return many and len(self._jobs) > 1

    def oldest(self) -> Live:
        """The one that was looked at longest ago. Raises `StopIteration` if there is none."""
        return next(iter(self._jobs.values()))

    def put(self, live: Live) -> None:
        """A job is looked at, which may be new here."""
        self.pop(live.key)
        self._jobs[live.key] = live
        size = self._sizes[live.key] = len(_encoder.encode(live.record))
        self._size_bytes += size

    def look(self, key: JobKey) -> None:
        """A job that is there is looked at, and is as it was."""
        self._jobs.move_to_end(key)

    def pop(self, key: JobKey) -> None:
        """A job is none of these any more, if it was."""
        if self._jobs.pop(key, None) is not None:
            self._size_bytes -= self._sizes.pop(key)

    def clear(self) -> None:
        """None is here any more."""
        self._jobs.clear()
        self._sizes.clear()
        self._size_bytes = 0
