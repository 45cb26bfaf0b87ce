"""What a WebAssembly module may reach by HTTP, and the name of the function by which it asks.

Knows: that alone, so that a worker whose modules ask for nothing loads nothing for it. Must not know: how it is done
(`compute.engines.wasm_http`).
"""

from typing import Final

from msgspec import Struct, field

MODULE: Final = "wasi:http/requests"
NAME: Final = "http_request"
ARGUMENTS: Final = 12
"""Of 32 bits each."""


class Way(Struct, frozen=True, omit_defaults=True):
    """What a run may reach: `domains` alone, or any host if None; of that what the owner's lines let it
    (`storage.addresses.read_policy`).
    """

    domains: list[str] | None = None
    allowed: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
