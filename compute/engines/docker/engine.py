"""The Docker engine's front: what the contract asks, in terms of images and containers.

Knows: how an execution and its container belong together (by name and labels), through crashes and repetitions. Must not
know: the API's fields (`config`), or what refusals mean (`faults`).
"""

import asyncio
import builtins
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import msgspec
from aiodocker import DockerError

from compute.engines.contract import Engine, Preparing, Run, Running
from compute.engines.docker.config import (
    EXECUTION_LABEL,
    NODE_LABEL,
    check,
    container_config,
    container_name,
    network_mode,
)
from compute.engines.docker.daemon import HINT, Daemon, unasked
from compute.engines.docker.devices import device_files
from compute.engines.docker.faults import create_fault, start_fault
from compute.engines.docker.gateway import Gateway
from compute.engines.docker.images import Images
from compute.engines.docker.restarts import made
from compute.engines.docker.running import DockerRunning, inspect, never_started, remove
from compute.engines.docker.settings import DockerSettings
from compute.engines.docker.volumes import Volumes
from protocol.clock import Clock, SystemClock
from protocol.errors import Conflict, Fault, NotFound, Unavailable
from protocol.ids import ExecutionId, NodeId
from protocol.nodes import Offer
from protocol.spec.engines import DockerParams
from protocol.together import to_its_end

PROBE_S: Final = 10.0
LOOK_S: Final = 1.0
API_LEAST: Final = (1, 41)
CREATE_TRIES: Final = 3


class _Made(NamedTuple):
    """An execution's container: its id, whether it was made here and now, and whether it was seen to run."""

    container: str
    here: bool
    seen: bool


class DockerEngine:
    """Runs containers of one node. Several nodes may share a daemon: names and labels keep them apart."""

    params: ClassVar[builtins.type] = DockerParams
    type: ClassVar[str] = "docker"

    def __init__(
        self, node: NodeId, settings: DockerSettings | None = None, *, clock: Clock | None = None
    ) -> None:
        self._clock = clock = clock or SystemClock()
        self._node = node
        self._settings = settings or DockerSettings()
        self._daemon = Daemon(self._settings, clock)
        self._images = Images(self._daemon, clock)
        self._volumes = Volumes(self._daemon, node)
        self._gateway = Gateway(self._daemon, node, self._settings.addresses)
        self._starting: dict[ExecutionId, asyncio.Lock] = {}
        self._was_here = False

    async def probe(self) -> Offer:
        """The daemon's version, or why it cannot be used."""
        try:
            await self._daemon.works()
            about = await self._daemon.call("answer", lambda docker: docker.version(), within_s=PROBE_S)
        except Fault as fault:
            self._was_here = False
            return Offer(self.type, available=False, reason=fault.message, hint=fault.hint)
        except DockerError as error:
            return Offer(self.type, available=False, reason=f"Docker refuses: {error.message}", hint=HINT)
        self._was_here = await self._daemon.answers()
        if not self._was_here:
            return Offer(self.type, available=False, reason="Docker takes no new connections", hint=HINT)
        version, api = str(about.get("Version", "")), str(about.get("ApiVersion", "0.0"))
        if tuple(int(part) for part in api.split(".") if part.isdecimal()) < API_LEAST:
            reason = f"Docker {version} speaks API {api}; needed is {'.'.join(map(str, API_LEAST))}"
            return Offer(
                self.type,
                available=False,
                version=version,
                reason=reason,
                hint="Install Docker 20.10 or newer.",
            )
        return Offer(self.type, version=version)

    async def changed(self) -> None:
        """The daemon goes or comes."""
        while await self._daemon.answers() == self._was_here:
            if self._was_here:
                await self._daemon.until_away()
            await self._clock.sleep(LOOK_S)

    def prepared(self, params: DockerParams) -> bool:
        return False

    async def prepare(self, params: DockerParams, preparing: Preparing) -> None:
        """Check the params, and pull the image unless it is here; tells ``image`` with bytes done and in all."""
        check(params)
        await self._images.ensure(params.image, preparing)

    async def start(self, run: Run[DockerParams]) -> Running:
        """Make the container and start it, or find the one there is.

        Whoever gives up waiting leaves no container that was made for him: that is finished first, then removed.
        """
        if network_mode(run, self._settings) != "http":
            return await self._start_with(run)
        try:
            async with self._gateway.lent() as proxy:
                return await self._start_with(run, proxy)
        except (Fault, asyncio.CancelledError):
            with suppress(Unavailable):
                await self._gateway.sweep()
            raise

    async def _start_with(self, run: Run[DockerParams], proxy: str = "") -> Running:
        volumes = self._images.volumes(run.params.image)
        devices = await asyncio.to_thread(device_files, run.gpus) if run.gpus else []
        config = container_config(run, self._settings, volumes, proxy=proxy, devices=devices)
        try:
            return await self._start(run, config)
        except NotFound as missing:
            if missing.kind != "Image":
                raise
        # It was here when it was prepared, and was removed since.
        self._images.forget(run.params.image)
        await self._images.ensure(run.params.image, lambda what, done_bytes, total_bytes: None)
        return await self._start(run, config)

    async def recover(self, execution: ExecutionId) -> Running | None:
        """Find an execution's container by its name. One that was made and surely never started is cleared away."""
        name = container_name(self._node, execution)
        found = await inspect(self._daemon, name)
        if found is None:
            return None
        if never_started(found) and await made(self._daemon, found["Id"]):
            await remove(self._daemon, self._volumes, found["Id"])
            return None
        runs = bool(found["State"]["Running"])
        gateway = self._gateway_of(found)
        if gateway is not None and runs:
            # From when it was found on its requests are answered again.
            async with gateway.lent():
                pass
        return DockerRunning(self._daemon, self._volumes, found["Id"], had_ended=not runs, gateway=gateway)

    async def leftovers(self) -> list[ExecutionId]:
        """The executions on this node's label, whatever their containers' state. Volumes that have none are removed."""
        await self._volumes.sweep()
        await self._gateway.sweep()
        filters = msgspec.json.encode({"label": [f"{NODE_LABEL}={self._node}", EXECUTION_LABEL]}).decode()
        try:
            found = await self._daemon.insist(
                "list containers", lambda docker: docker.containers.list(all=True, filters=filters)
            )
        except DockerError as error:
            raise Unavailable(f"Docker cannot list containers ({error.message})") from error
        return [ExecutionId(container["Labels"][EXECUTION_LABEL]) for container in found]

    async def close(self) -> None:
        """Close the connections; containers run on."""
        await self._gateway.close()
        await self._daemon.close()

    async def _start(self, run: Run[DockerParams], config: dict[str, Any]) -> Running:
        work = asyncio.ensure_future(self._make_once(run, config))
        try:
            got = await to_its_end(work)
        except asyncio.CancelledError:
            if not work.cancelled() and work.exception() is None and work.result().here:
                await remove(self._daemon, self._volumes, work.result().container)
            raise
        return DockerRunning(
            self._daemon,
            self._volumes,
            got.container,
            had_ended=not got.seen,
            gateway=self._gateway_of(config),
        )

    def _gateway_of(self, container: dict[str, Any]) -> Gateway | None:
        """The way out of a container, if it has one, by its configuration or by what the daemon tells of it."""
        return self._gateway if container["HostConfig"]["NetworkMode"] == self._gateway.name else None

    async def _make_once(self, run: Run[DockerParams], config: dict[str, Any]) -> _Made:
        """One at a time: a container that was seen unstarted may meanwhile have run and ended, and would run again."""
        lock = self._starting.setdefault(run.execution, asyncio.Lock())
        try:
            async with lock:
                return await self._make(run, config)
        finally:
            self._starting.pop(run.execution, None)

    async def _make(self, run: Run[DockerParams], config: dict[str, Any]) -> _Made:
        """The execution's container, started."""
        name = container_name(run.node, run.execution)
        for _ in range(CREATE_TRIES):
            try:
                container = await self._daemon.insist(
                    "make a container", lambda docker: docker.containers.create(config, name=name)
                )
            except DockerError as error:
                if error.status != 409:
                    raise create_fault(run.params.image, error.status, error.message) from error
            else:
                return _Made(container.id, True, await self._launch(container.id, run.params.image))
            found = await inspect(self._daemon, name)
            # None: it was on its way out, and the name is free now.
            if found is not None:
                if never_started(found):
                    return _Made(found["Id"], False, await self._launch(found["Id"], run.params.image))
                return _Made(found["Id"], False, bool(found["State"]["Running"]))
        raise Conflict(f"the name {name} is taken by a container that cannot be found", hint="Try again.")

    async def _launch(self, container: str, image: str) -> bool:
        """Start it, once: starting a container that has run would run it again. False if a daemon that went
        away as it was asked may have started it and says that it has not, or if the program has ended meanwhile.
        """
        while True:
            try:
                await self._daemon.call(
                    "start a container", lambda docker: docker.containers.container(container).start()
                )
            except DockerError as error:
                await remove(self._daemon, self._volumes, container)
                raise start_fault(image, error.message) from error
            except Unavailable as lost:
                await self._daemon.until_back(lost)
                found = await inspect(self._daemon, container)
                if found is None:
                    raise
                if never_started(found) and (unasked(lost) or await made(self._daemon, container)):
                    continue
                return bool(found["State"]["Running"])
            return True


if TYPE_CHECKING:

    def _fits(engine: DockerEngine) -> Engine[DockerParams]:
        return engine
