"""The interpreter while simulations run: it collects no garbage meanwhile, and says nothing of what dead processes left.

Knows: what is global in this interpreter. Must not know: what is simulated.
"""

import gc
import sys
import warnings

from tests.simulation.loop import finalize
from tests.simulation.network import SimulatedBus


class QuietInterpreter:
    """What is left of dead processes is collected without a word, and never while a simulation runs."""

    def __enter__(self) -> None:
        self._hooks = sys.get_asyncgen_hooks()
        self._unraisable = sys.unraisablehook
        self._enabled = gc.isenabled()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=finalize)
        sys.unraisablehook = lambda _: None
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self._warnings.__exit__(None, None, None)
        sys.unraisablehook = self._unraisable
        sys.set_asyncgen_hooks(*self._hooks)
        if self._enabled:
            gc.enable()


def forget_connections() -> None:
    """Start counting connections anew, so that a seed's numbers are its own."""
    SimulatedBus._numbers = 0
