"""The engines there are: one line each.

Knows: how each engine is made from the node's settings. Must not know: what any of them does. An engine's libraries are
imported when it is made: a node without it does not need them.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from compute.engines.contract import Engine
from compute.engines.docker.settings import DockerSettings
from protocol.errors import Invalid
from protocol.ids import NodeId


class EngineSettings(Struct, frozen=True):
    """What a node says about its engines.

    `folder` is for what an engine keeps between runs (compiled modules), a folder of its own below it. `types` are the
    engines that it has; ``noop``, which runs nothing, is for rehearsals and has to be named.
    """

    node: NodeId
    folder: Path
    types: tuple[str, ...] = ("docker", "wasm")
    docker: DockerSettings = field(default_factory=DockerSettings)


def _docker(settings: EngineSettings) -> Engine[Any]:
    from compute.engines.docker.engine import DockerEngine

    return DockerEngine(settings.node, settings.docker)


def _wasm(settings: EngineSettings) -> Engine[Any]:
    from compute.engines.wasm import WasmEngine

    folder = settings.folder / "wasm"
    folder.mkdir(parents=True, exist_ok=True)
    return WasmEngine(folder, _reach(settings))


def _reach(settings: EngineSettings) -> Any:
    """What modules may reach: what the owner lets containers of Network.Type HTTP reach, if programs have a network here."""
    from compute.engines.wasm_reach import Way

    if not settings.docker.networking:
        return None
    lines = [
        [rule.text for rule in rules]
        for rules in (settings.docker.addresses.allowed, settings.docker.addresses.denied)
    ]
    return Way(None, *(list(dict.fromkeys(each)) for each in lines))


def _noop(settings: EngineSettings) -> Engine[Any]:
    from compute.engines.noop import NoopEngine

    return NoopEngine(settings.node)


ENGINES: Final[dict[str, Callable[[EngineSettings], Engine[Any]]]] = {
    "docker": _docker,
    "wasm": _wasm,
    "noop": _noop,
}
"""By lower-case type."""


@asynccontextmanager
async def open_engines(settings: EngineSettings) -> AsyncIterator[dict[str, Engine[Any]]]:
    """Make the settings' engines, by lower-case type, and close them at the end.

    None is asked whether it works: a daemon may start later, and `Engine.probe` tells. Raises `Invalid` for an unknown type.
    """
    async with AsyncExitStack() as stack:
        engines = {}
        for name in dict.fromkeys(name.lower() for name in settings.types):
            if name not in ENGINES:
                raise Invalid(f"there is no engine {name!r}", hint=f"Engines are {', '.join(ENGINES)}.")
            engine = engines[name] = ENGINES[name](settings)
            stack.push_async_callback(engine.close)
        yield engines
