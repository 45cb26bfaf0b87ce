"""The jobs that measurements submit: programs that do nothing, as any user's small job would."""

import base64
from typing import Any, Final

from wasmtime import wat2wasm

from deploy import images

MODULE: Final = bytes(wat2wasm('(module (func $start (export "_start")))'))
CONTAINER_CPU: Final = 0.1
CONTAINER_BYTES: Final = 64_000_000


def noop_module(name: str) -> dict[str, Any]:
    """A job whose program returns at once."""
    url = "data:application/wasm;base64," + base64.b64encode(MODULE).decode()
    task = {
        "Name": "main",
        "Engine": {"Type": "wasm", "Params": {"EntryModule": "/m.wasm", "Entrypoint": "_start"}},
        "InputSources": [{"Target": "/m.wasm", "Source": {"Type": "inline", "Params": {"URL": url}}}],
        "Resources": {"CPU": "10m", "Memory": "16Mb"},
    }
    return {"Name": name, "Type": "batch", "Tasks": [task]}


def noop_container(name: str) -> dict[str, Any]:
    """A job whose container ends at once."""
    task = {
        "Name": "main",
        "Engine": {"Type": "docker", "Params": {"Image": images.BUSYBOX, "Entrypoint": ["true"]}},
        "Network": {"Type": "None"},
        "Resources": {"CPU": str(CONTAINER_CPU), "Memory": str(CONTAINER_BYTES)},
    }
    return {"Name": name, "Type": "batch", "Tasks": [task]}
