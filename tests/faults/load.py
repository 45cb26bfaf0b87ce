"""The clients: they submit jobs to any requester, follow them, sometimes stop one, and write down what was answered.

Knows: Bacalhau's REST calls, and what each kind of job has to print. Must not know: what is broken just now.
"""

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from random import Random
from typing import Any, Final

import aiohttp

from tests.acceptance.jobs import job, module, publish, shell
from tests.faults.history import SERVICE, Submission
from tests.faults.world import BUCKET, INPUTS, World, input_bytes, word

ANSWER_S: Final = 15.0
LOOK_S: Final = 0.25
ENDS: Final = frozenset({"Completed", "Failed", "Stopped"})
STOP_SHARE: Final = 0.06

Json = dict[str, Any]


class Load:
    """Jobs that flow until `enough` says so; `submissions` is what came of each call."""

    def __init__(self, world: World, seed: int, *, clients: int, enough: Callable[[int], bool]) -> None:
        self._world = world
        self._random = Random(f"load {seed}")
        self._clients = clients
        self._enough = enough
        self._numbers = count(1)
        self.submissions: list[Submission] = []
        self.open: dict[str, Submission] = {}
        self._endless = Submission("endless", SERVICE, self._any()[0])

    async def begin(self) -> None:
        """Submit the service that goes on while all else happens, before anything is broken."""
        self.submissions.append(self._endless)
        spec = job(
            module("print", "again", ""),
            Name="endless",
            Type="service",
            Retry={"Backoff": 0.2, "BackoffMax": 0.5},
        )
        async with _session() as session:
            await self._submit(session, self._endless, spec)
        if self._endless.outcome != "accepted":
            raise RuntimeError(f"the service was not accepted: {self._endless.detail}")
        self.open[self._endless.job] = self._endless

    async def run(self) -> None:
        """Submit and follow until there was enough, then until every accepted job has ended; the service is stopped last."""
        async with _session() as session:
            async with asyncio.TaskGroup() as clients:
                for _ in range(self._clients):
                    clients.create_task(self._client(session))
            await self._stop(session, self._endless)

    async def _stop(self, session: aiohttp.ClientSession, wanted: Submission) -> None:
        """Stop what would go on for ever, until somebody answers, and see it end."""
        while not wanted.stopped:
            url = f"{self._any()[1]}/api/v1/orchestrator/jobs/{wanted.job}"
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.delete(url, json={"reason": "all is over"}) as answer:
                    wanted.stopped = answer.status == 200
            await asyncio.sleep(LOOK_S)
        await self._follow(session, wanted)

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._enough(len(self.submissions)):
            wanted, spec = self._next()
            self.submissions.append(wanted)
            await self._submit(session, wanted, spec)
            if wanted.outcome == "accepted":
                await self._follow(session, wanted)
            else:
                await asyncio.sleep(LOOK_S)

    async def _submit(self, session: aiohttp.ClientSession, wanted: Submission, spec: Json) -> None:
        url = f"{self._world.urls[wanted.requester]}/api/v1/orchestrator/jobs"
        try:
            async with session.put(url, json={"Job": spec}) as answer:
                body = await answer.json(content_type=None)
                if answer.status == 200:
                    wanted.outcome, wanted.job = "accepted", body["JobID"]
                else:
                    # "Whether it was taken is not known" is one of the answers.
                    unknown = any(words in str(body) for words in ("not known", "in doubt"))
                    wanted.outcome = "doubtful" if unknown else "refused"
                    wanted.detail = str(body.get("Message", body))
        except aiohttp.ClientConnectorError:
            wanted.outcome, wanted.detail = "refused", "nobody listens"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            wanted.detail = repr(error)

    async def _follow(self, session: aiohttp.ClientSession, wanted: Submission) -> None:
        """Ask any requester until the job has ended."""
        self.open[wanted.job] = wanted
        share = STOP_SHARE if not wanted.stopped else 0.0
        stop_in = self._random.randint(1, 6) if self._random.random() < share else 0
        while True:
            await asyncio.sleep(LOOK_S)
            url = f"{self._any()[1]}/api/v1/orchestrator/jobs/{wanted.job}"
            try:
                stop_in -= 1
                if stop_in == 0:
                    async with session.delete(url, json={"reason": "the test asks for it"}) as answer:
                        wanted.stopped |= answer.status == 200
                async with session.get(url) as answer:
                    if answer.status == 200:
                        body = await answer.json(content_type=None)
                        if body["Job"]["State"]["StateType"] in ENDS:
                            del self.open[wanted.job]
                            return
            except (aiohttp.ClientError, TimeoutError, ValueError):
                # A stop that was not answered may have been taken.
                wanted.stopped |= stop_in == 0

    def _any(self) -> tuple[str, str]:
        return self._random.choice(list(self._world.urls.items()))

    def _next(self) -> tuple[Submission, Json]:
        number = next(self._numbers)
        name, requester = f"job-{number}", self._any()[0]
        kinds = {"print": 5, "sleep": 2, "box": 2}
        if self._world.cids:
            kinds["tree"] = 2
        kind = self._random.choices(list(kinds), list(kinds.values()))[0]
        if kind == "print":
            wanted = Submission(name, kind, requester, says=name)
            spec = job(module("print", name, ""), Name=name)
        elif kind == "sleep":
            wanted = Submission(name, kind, requester, count=2, says="ready\n")
            spec = job(module("sleep", "1"), Name=name, Count=2)
        elif kind == "tree":
            read = number % len(self._world.cids)
            wanted = Submission(name, kind, requester, result=word(read))
            source = {"Type": "ipfs", "Params": {"CID": self._world.cids[read]}}
            task = module("copy", "/in", "/outputs/word", InputSources=[{"Target": "/in", "Source": source}])
            spec = job({**task, **publish({"Type": "ipfs"})}, Name=name, Retry={"Attempts": 20})
        else:
            read = number % INPUTS
            digest = hashlib.sha256(input_bytes(read)).hexdigest()
            wanted = Submission(name, kind, requester, says=f"{name}\n", result=f"{name} read {digest}\n")
            # A store that is away longer than a publisher waits costs an attempt; how many is the job's policy.
            spec = job(self._box(name, read), Name=name, Retry={"Attempts": 20})
        return wanted, spec

    def _box(self, name: str, read: int) -> Json:
        """A container that notes its start, takes a moment, and publishes what it read."""
        script = (
            f"echo $BACALHAU_EXECUTION_ID >> /starts/{name}; sleep 0.7; echo {name}; "
            f"echo {name} read $(sha256sum < /in/{read} | cut -d' ' -f1) > /outputs/word"
        )
        starts = {"Type": "local", "Params": {"SourcePath": str(self._world.starts), "ReadWrite": True}}
        s3 = self._world.s3
        store = {"Bucket": BUCKET, "Endpoint": s3.endpoint, "Region": s3.region}
        data = {"Type": "s3", "Params": {**store, "Key": f"in/{read}"}}
        return shell(
            self._world.image,
            script,
            InputSources=[{"Target": "/starts", "Source": starts}, {"Target": "/in", "Source": data}],
            Publisher={"Type": "s3", "Params": {**store, "Key": "out/{executionID}", "Encoding": "plain"}},
            ResultPaths=[{"Name": "outputs", "Path": "/outputs"}],
            Network={"Type": "None"},
        )


def _session() -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))
    # Else it would submit again by itself when a connection breaks, and tell of the second time alone.
    session._retry_connection = False
    return session
