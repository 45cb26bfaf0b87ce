"""How long an event loop was in its own wait, as libuv counts it.

Knows: uvloop's loops, and libuv's metrics (https://docs.libuv.org/en/v1.x/metrics.html). Must not know: what is waited for.

libuv takes the time before and after the one system call in which a loop sleeps until there is something for it or a timer
is due. Both are taken without the interpreter's lock, and before any callback. So in that time nobody needed the lock for
the loop, no call of ours held it up, and whatever the process did elsewhere could not lengthen it: that it took longer than
to the nearest timer is the kernel's doing, or the host's.
"""

import asyncio
import ctypes
import importlib
from typing import Any, Final

_IDLE_TIME: Final = 1
"""UV_METRICS_IDLE_TIME of uv_loop_option."""
_NS: Final = 1e-9


class OwnWait:
    """The wait of the running loop. Of Python's own loop nothing is known, and its wait is 0 always."""

    def __init__(self) -> None:
        self._libuv: Any = None
        self._address: int | None = None
        loop = asyncio.get_running_loop()
        if not type(loop).__module__.startswith("uvloop"):
            return
        uvloop = importlib.import_module("uvloop.loop")
        libuv = ctypes.CDLL(uvloop.__file__)
        libuv.uv_loop_configure.argtypes = [ctypes.c_void_p, ctypes.c_int]
        libuv.uv_metrics_idle_time.argtypes = [ctypes.c_void_p]
        libuv.uv_metrics_idle_time.restype = ctypes.c_uint64
        address = _address_in(uvloop.libuv_get_loop_t_ptr(loop))
        if libuv.uv_loop_configure(address, _IDLE_TIME):
            raise OSError("this libuv does not count the time that a loop waits")
        self._libuv, self._address = libuv, address

    def total_s(self) -> float:
        """Seconds that the loop has waited since this was made; to be asked on the loop."""
        if self._libuv is None:
            return 0.0
        return float(self._libuv.uv_metrics_idle_time(self._address)) * _NS


def _address_in(capsule: object) -> int:
    read = ctypes.pythonapi.PyCapsule_GetPointer
    read.argtypes, read.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    address = read(capsule, None)
    assert isinstance(address, int)
    return address
