"""What every driver says of a job's parameters without a server, a disk or a network: told before a node has seen the job.

Knows: which form the parameters of each type have. Must not know: whose job it is, or how faults are shown. A driver's
modules are imported when a job first names it.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from protocol.jobs import Spec
from protocol.spec.bounds import Path
from protocol.spec.look import ParamFault
from storage.contract import Form
from storage.params import Unfit, read_params

SAID_MAX_CHARACTERS: Final = 400
"""What is wrong may quote what was written, which may be long."""


class _Words(NamedTuple):
    """The form of some parameters, and what else makes them wrong."""

    form: Form
    check: Callable[[Any], None] | None = None


def _s3() -> _Words:
    from storage.s3.params import SourceParams
    from storage.s3.patterns import check_patterns

    return _Words(SourceParams, check_patterns)


def _ipfs() -> _Words:
    from storage.ipfs.params import SourceParams

    return _Words(SourceParams)


def _url() -> _Words:
    from storage.url.params import UrlParams

    return _Words(UrlParams)


def _local() -> _Words:
    from storage.local import LocalParams

    return _Words(LocalParams)


def _inline() -> _Words:
    from storage.inline import InlineParams

    return _Words(InlineParams)


def _to_s3() -> _Words:
    from storage.s3.params import PublisherParams

    return _Words(PublisherParams)


def _to_managed() -> _Words:
    from storage.s3.managed import ManagedParams

    return _Words(ManagedParams)


def _to_ipfs() -> _Words:
    from storage.ipfs.params import PublisherParams

    return _Words(PublisherParams)


def _to_local() -> _Words:
    from storage.local_publisher import LocalPublisherParams

    return _Words(LocalPublisherParams)


_FORMS: Final[Mapping[str, Mapping[str, Callable[[], _Words]]]] = {
    "source": {"s3": _s3, "ipfs": _ipfs, "urldownload": _url, "local": _local, "inline": _inline},
    "publisher": {"s3": _to_s3, "s3managed": _to_managed, "ipfs": _to_ipfs, "local": _to_local},
}


@cache
def words_of(what: str, type: str) -> _Words | None:
    """The form of a ``source`` or ``publisher`` of a type in lower case; None for one that has no driver."""
    find = _FORMS[what].get(type)
    return find() if find else None


def look(what: str, spec: Spec) -> Iterator[ParamFault]:
    """All that can never work in the parameters of a ``source`` or ``publisher``: a `protocol.spec.look.Look`.

    A field that is wrong is left out, so that the next ones are found too.
    """
    words = words_of(what, spec.type.lower())
    if words is None:
        return
    params = dict(spec.params)
    fields = len(params) + 1
    while len(params) < fields:
        fields = len(params)
        try:
            read_params(params, words.form, f"{what} {spec.type}", words.check)
        except Unfit as fault:
            yield _told(fault)
            params = _without(params, fault.at)


def _told(fault: Unfit) -> ParamFault:
    said = f"{fault.said}. {fault.hint}" if fault.hint and not fault.near else fault.said
    short = said if len(said) <= SAID_MAX_CHARACTERS else f"{said[:SAID_MAX_CHARACTERS]}…"
    return ParamFault(fault.at, short, near=fault.near, unknown=fault.unknown, name=fault.name)


def _without(params: Mapping[str, Any], at: Path) -> dict[str, Any]:
    """The parameters without that one: as it is written if it is there so, else in any case."""
    if at and at[0] in params:
        return {key: value for key, value in params.items() if key != at[0]}
    return {key: value for key, value in params.items() if not at or key.lower() != str(at[0]).lower()}
