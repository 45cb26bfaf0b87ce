"""Files of a Kubo node in ranges: through its gateway, or by ``cat``.

Knows: how a range is asked for in both ways, and what a refusal means. Must not know: threads, or where the bytes go.
Kubo has checked each block against its CID, and tells in a trailer what it lacks; its gateway is twice as fast as ``cat``
(docs/adr/0011).
"""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from protocol.errors import Broken, Fault, Unavailable
from storage.ipfs.kubo import Kubo
from storage.ipfs.trailers import told_behind, words_of
from storage.lanes import Request
from storage.parts import PARTIAL
from storage.ranged import Refusal


class GatewayFile:
    """A file through a node's own gateway: a `storage.parts.Far`."""

    def __init__(self, gateway: str, cid: str, size_bytes: int, name: str) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._cid = cid
        self._target = f"{urlsplit(gateway).path}/ipfs/{cid}"

    def request(self, start: int, end: int) -> Request:
        """A whole file is asked for without a range, which every server understands."""
        if start == 0 and end == self.size_bytes:
            return Request("GET", self._target, {})
        return Request("GET", self._target, {"Range": f"bytes={start}-{end - 1}"}, statuses=(PARTIAL,))

    def check(self, headers: Mapping[str, str]) -> None:
        """A gateway says what it serves; anything else than the file asked for is not taken."""
        roots = headers.get("x-ipfs-roots", "")
        if self._cid not in roots.split(","):
            raise Broken(f"{self.name}: the gateway answered with another CID ({roots[:200]!r})")

    def refused(self, status: int, body: bytes) -> Refusal:
        """Kubo itself is to be asked; its word counts."""
        fault = Unavailable(f"{self.name}: the gateway refuses (status {status})")
        return Refusal(fault, again=False)

    def told(self, trailers: Mapping[str, str]) -> Fault | None:
        """A body that the gateway itself says is not whole: Kubo is to be asked."""
        words = words_of(trailers)[:300].decode(errors="replace")
        return Unavailable(f"{self.name}: the gateway broke off: {words}") if words else None


class KuboFile:
    """A file by ``cat``: a `storage.parts.Far`."""

    def __init__(self, kubo: Kubo, cid: str, size_bytes: int, name: str) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._kubo = kubo
        self._target = f"{urlsplit(kubo.url('cat')).path}?arg={quote(f'/ipfs/{cid}', safe='')}"

    def request(self, start: int, end: int) -> Request:
        """A file is asked for to its end, whatever its size was said to be: more than that is found out."""
        length = "" if end == self.size_bytes else f"&length={end - start}"
        return Request("POST", f"{self._target}&offset={start}{length}", {})

    def check(self, headers: Mapping[str, str]) -> None:
        """Kubo says nothing of what it sends."""

    def refused(self, status: int, body: bytes) -> Refusal:
        """As Kubo says."""
        return Refusal(self._kubo.fault_of(self.name, status, body), again=False)

    def told(self, trailers: Mapping[str, str]) -> Fault | None:
        """An error within the body ends it early, with Kubo's words behind it."""
        return told_behind(self._kubo, self.name, trailers)
