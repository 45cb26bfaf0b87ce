"""The parameters of each engine: the one place where their names and types are.

Knows: the fields of ``docker``, ``wasm`` and ``noop`` under Bacalhau's names. Must not know: how an engine runs anything,
or in which key case or older form a person wrote them (`protocol.spec` reads those into these).
"""

from typing import Final

import msgspec
from msgspec import Struct, field

from protocol.jobs import Spec


class DockerParams(Struct, frozen=True, rename="pascal", forbid_unknown_fields=True, omit_defaults=True):
    """A container. `entrypoint` replaces the image's own, `parameters` are its command.

    `environment_variables` are ``KEY=value`` and win over the task's Env. `working_directory` is absolute, or empty for the
    image's own.
    """

    image: str = ""
    entrypoint: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    environment_variables: list[str] = field(default_factory=list)
    working_directory: str = ""


class WasmParams(Struct, frozen=True, rename="pascal", forbid_unknown_fields=True, omit_defaults=True):
    """A WebAssembly program. `entry_module` and `import_modules` are targets of the task's inputs.

    `entrypoint` is the function to call, ``_start`` if empty. `parameters` are the arguments from the second on.
    """

    entry_module: str = ""
    entrypoint: str = ""
    parameters: list[str] = field(default_factory=list)
    import_modules: list[str] = field(default_factory=list)


class NoopParams(Struct, frozen=True, rename="pascal", forbid_unknown_fields=True, omit_defaults=True):
    """A program that is only played, in this order: prepare, start, output, reads, writes, the time it takes, the end.

    `prints_env` are names printed as ``NAME=value`` lines, `reads` paths whose content is printed, `writes` maps paths to
    text; paths are as the program sees them. A `stubborn` program does not end when asked; another says `farewell` on
    standard error. `prepare_fails`, `start_fails` and `fails` (while running) are failure codes such as ``NotFound.Image``.
    """

    exit_code: int = 0
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0
    prepare_seconds: float = 0
    prints_env: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    writes: dict[str, str] = field(default_factory=dict)
    stubborn: bool = False
    farewell: str = ""
    prepare_fails: str = ""
    start_fails: str = ""
    fails: str = ""


EngineParams = DockerParams | WasmParams | NoopParams

ENGINES: Final[dict[str, type[EngineParams]]] = {
    "docker": DockerParams,
    "wasm": WasmParams,
    "noop": NoopParams,
}
"""Every engine type there is, with the form of its parameters."""


def engine_spec(type: str, params: EngineParams) -> Spec:
    """The canonical engine of a job: parameters that say nothing are left out."""
    return Spec(type, msgspec.to_builtins(params))
