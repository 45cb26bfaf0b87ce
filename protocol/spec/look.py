"""What drivers find wrong with the parameters of a job's sources and publishers.

Knows: the form in which that is told. Must not know: any driver; whoever reads a spec brings a `Look` from where they are.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from protocol.jobs import Spec
from protocol.spec.bounds import Path


class ParamFault(NamedTuple):
    """What is wrong with one parameter, in words to be read behind its name.

    `unknown`: there is no such parameter, and `near` is the one that was probably meant. `name`: it is about the
    parameter's name, not about its value.
    """

    at: Path
    said: str
    near: str = ""
    unknown: bool = False
    name: bool = False


Look = Callable[[str, Spec], Iterable[ParamFault]]
"""All that can never work in the parameters of a ``source`` or ``publisher``."""


def unseen(what: str, spec: Spec) -> Iterable[ParamFault]:
    """The look of who has no drivers at hand."""
    return ()
