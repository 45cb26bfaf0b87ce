"""A client of the REST API that costs next to nothing: it shares the cores with what it measures.

Knows: the part of HTTP that our API answers with. Must not know: what is measured. It reads what any client reads, whole.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec

from deploy.devstack import Requester
from deploy.servers import LOOPBACK

JOBS: Final = "/api/v1/orchestrator/jobs"
NODES: Final = "/api/v1/orchestrator/nodes"
HEADERS: Final = "Host: bench\r\nContent-Type: application/json\r\n"
ASK_AGAIN_S: Final = 0.02
"""Seldom enough that asking takes nothing from what is measured."""


class Connection:
    """One connection that is kept; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def submit(self, body: bytes) -> str:
        """Submit a job (`body_of`); its id."""
        return str((await self._json("PUT", JOBS, body))["JobID"])

    async def closed(self, job: str) -> str:
        """Watch a job to its end; its state."""
        state = ""
        for line in (await self._ask("GET", f"{JOBS}/{job}/watch")).splitlines():
            if view := msgspec.json.decode(line).get("Job"):
                state = f"{view['State']['StateType']} {view['State']['Message']}".strip()
        return state

    async def open_jobs(self) -> int:
        """How many jobs are open."""
        return int((await self._json("GET", "/readyz"))["open_jobs"])

    async def executions(self, job: str) -> list[dict[str, Any]]:
        """The executions of a job."""
        return list((await self._json("GET", f"{JOBS}/{job}/executions"))["Items"])

    async def stop(self, job: str) -> None:
        """Stop a job."""
        await self._ask("DELETE", f"{JOBS}/{job}")

    async def nodes_connected(self) -> int:
        """How many nodes are connected."""
        return len((await self._json("GET", f"{NODES}?filter-status=CONNECTED"))["Nodes"])

    async def capacity_cpu(self) -> float:
        """The cores of the first node."""
        (node, *_) = (await self._json("GET", NODES))["Nodes"]
        return float(node["Info"]["ComputeNodeInfo"]["MaxCapacity"]["CPU"])

    async def all_closed(self) -> None:
        """Wait until no job is open."""
        while await self.open_jobs():  # noqa: ASYNC110 (it is another process that is asked)
            await asyncio.sleep(ASK_AGAIN_S)

    async def states(self, prefix: str) -> list[str]:
        """The states of all jobs whose name begins so."""
        states, token = [], ""
        while True:
            page = await self._json("GET", f"{JOBS}?limit=1000&next_token={token}")
            states += [
                each["State"]["StateType"] for each in page["Items"] if each["Name"].startswith(prefix)
            ]
            token = page["NextToken"]
            if not token:
                return states

    async def _json(self, method: str, path: str, body: bytes = b"") -> Any:
        return msgspec.json.decode(await self._ask(method, path, body))

    async def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One request; the body of its answer. Raises `RuntimeError` unless the answer is 200."""
        head = f"{method} {path} HTTP/1.1\r\n{HEADERS}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, found, length = lines.partition(b"content-length:")
        if found:
            answer = await self._reader.readexactly(int(length.partition(b"\r\n")[0]))
        else:
            answer = b"".join([piece async for piece in self._chunks()])
        if not lines.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{method} {path} was answered {lines.splitlines()[0]!r}: {answer[:500]!r}")
        return answer

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)


ConnectionT = TypeVar("ConnectionT", bound=Connection)


@asynccontextmanager
async def connections(requester: Requester, count: int = 1) -> AsyncIterator[list[Connection]]:
    """So many connections to a requester."""
    async with opened(Connection, requester.port, count) as clients:
        yield clients


@asynccontextmanager
async def opened(kind: type[ConnectionT], port: int, count: int) -> AsyncIterator[list[ConnectionT]]:
    """So many connections to a port of loopback. Raises `OSError` while nobody listens."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            stack.callback(writer.close)
            clients.append(kind(reader, writer))
        yield clients


async def submit_all(clients: Sequence[Connection], bodies: Iterable[bytes]) -> list[str]:
    """Submit them all, each connection one after the other; the ids."""
    ids: list[str] = []
    left = iter(bodies)

    async def some(client: Connection, left: Iterator[bytes]) -> None:
        ids.extend([await client.submit(body) for body in left])

    await asyncio.gather(*(some(client, left) for client in clients))
    return ids


def body_of(job: dict[str, Any]) -> bytes:
    """The body that submits a job."""
    return msgspec.json.encode({"Job": job})
