"""What every source and publisher promises.

Knows: the two Protocols, and the values that cross them. Must not know: any driver. The suites in
``tests/contracts/source.py``
and ``tests/contracts/publisher.py`` ask every driver for each sentence below.

A driver's parameters arrive as its own frozen Struct (`params`), read once from a `Spec` by `read_params`: any key case,
as Bacalhau reads them; unknown fields are refused with a near spelling.
"""

from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from msgspec import Struct, field

from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Spec
from protocol.nodes import Offer

P_contra = TypeVar("P_contra", contravariant=True)
Form = type[Any]
"""A driver's own Struct; it has a name here because the drivers' `type` hides the builtin."""


class Share(Struct, frozen=True):
    """Which part of a partitioned input this execution reads: `index` of `count`."""

    index: int = 0
    count: int = 1


class Label(Struct, frozen=True):
    """What a publisher may put into names: who publishes, and when (unix seconds).

    `everywhere` says that the job runs on each node instead of in partitions: then it is the node that tells one piece of
    its work from another.

    `notes` is a folder that outlives the process, for what a publisher must know to clean up after ``kill -9``, if there is
    one; it goes when the execution does.
    """

    job: JobId
    execution: ExecutionId
    node: NodeId
    at: float
    partition: int = 0
    attempt: int = 1
    version: int = 1
    everywhere: bool = False
    notes: Path | None = None


class Resolved(Struct, frozen=True):
    """An input pinned down before it is fetched.

    `identity` is immutable (a CID; bucket, key and version or ETag; a digest), and equal identities of one type bring equal
    trees: whatever a param changes or checks in what is brought (a name, a share, a checksum) is part of it.
    `size_bytes` None means that the source does not say. `pinned` is the driver's own: what `fetch` needs in order to
    bring exactly this.

    `cacheable`: the identity names these bytes for ever, and bringing them costs more than a look-up; a source may learn
    that only when the same is wanted again. Only then is what one execution fetched given to the next; each has to
    `resolve` by itself all the same, so nobody reads what the other side would not show them.
    """

    identity: str
    size_bytes: int | None = None
    pinned: Any = None
    cacheable: bool = False


class Fetched(Struct, frozen=True):
    """What to mount at the input's target: a file or a folder. `owned` is False for a path that is not ours to remove."""

    path: Path
    read_only: bool = True
    owned: bool = True


class Progress(Protocol):
    """Told of bytes as they move; cheap to call often."""

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        """`done_bytes` so far of `total_bytes` (None: unknown)."""


def silent(done_bytes: int, total_bytes: int | None) -> None:
    """A `Progress` for callers that do not want any."""


class Source(Protocol[P_contra]):
    """Brings data to the node.

    Faults: `Invalid` (the params can never work), `NotFound` (names the bucket, key, CID or path), `Denied`
    (credentials, policy), `Unavailable` (the other side is not there or ill), `TimedOut` (silence beyond the limit; says
    how many bytes came), `Broken` (not the bytes that were named), `Exhausted` (a size limit). Every message says which
    thing failed and, where there is something to do, the hint says what.
    """

    type: ClassVar[str]
    params: ClassVar[Form]

    async def probe(self) -> Offer:
        """Whether this source works on this node just now; never raises."""

    async def resolve(self, params: P_contra, share: Share) -> Resolved:
        """Identity and size, in bounded time, without moving the data. The same unchanged data gives an equal answer."""

    async def fetch(self, params: P_contra, resolved: Resolved, into: Path, progress: Progress) -> Fetched:
        """Bring exactly what was resolved to `into`, a path that does not exist yet in a folder that does.

        Afterwards `into` is a file or a folder, complete; on any fault or cancellation nothing is left of it. No name
        from the data leads outside it. A source whose data is already here may answer with another path instead; not one
        that said `cacheable`. Whatever `progress` raises ends the fetch, and is raised from it: that is how a limit
        stops one that has grown too large.
        """


class Publisher(Protocol[P_contra]):
    """Puts a result folder where others can get it. Raises the same faults as a `Source`."""

    type: ClassVar[str]
    params: ClassVar[Form]

    async def probe(self) -> Offer:
        """Whether this publisher works on this node just now; never raises."""

    async def publish(self, folder: Path, params: P_contra, label: Label, progress: Progress) -> Spec:
        """Store the folder's tree (regular files, folders; symbolic links as links or refused, never followed).

        The answer is a `Spec` that the `Source` of its type can read: fetching it gives the same tree, or an archive of
        it where the driver says so. On a fault nothing half-published is advertised. Publishing the same execution again
        is harmless.
        """


@runtime_checkable
class Foreseeing(Protocol[P_contra]):
    """A publisher that can tell, before a program has run for hours, that its result could not be put there."""

    async def foresee(self, params: P_contra, label: Label) -> None:
        """Raise what `publish` would, as far as it is clear now and will not pass; what may pass is not raised."""


class Drivers(Struct, frozen=True):
    """The drivers a process has, by lower-case type; and those that it lacks for want of a setting, with what to do."""

    sources: dict[str, Source[Any]] = field(default_factory=dict)
    publishers: dict[str, Publisher[Any]] = field(default_factory=dict)
    absent_sources: dict[str, Offer] = field(default_factory=dict)
    absent_publishers: dict[str, Offer] = field(default_factory=dict)
