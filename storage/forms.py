"""What every driver says of a job's parameters without a server, a disk or a network: told before a node has seen the job.

Knows: which form the parameters of each type have. Must not know: whose job it is, or how faults are shown. A driver's
modules are imported when a job first names it.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from protocol.jobs import Spec
from protocol.spec.bounds import Path
from protocol.spec.look import ParamFault
from storage.contract import Form
from storage.params import Unfit, read_params

SAID_MAX_CHARACTERS: Final = 400
"""What is wrong may quote what was written, which may be long."""


class _Words(NamedTuple):
    """The form of some parameters, and what else makes them wrong. `stand_ins` are the parameters that it cannot do without,
    as they may be: one that is missing or wrong is taken for that, so that the others are looked at."""

    form: Form
    check: Callable[[Any], None] | None = None
    stand_ins: Mapping[str, str] = MappingProxyType({})


def _s3() -> _Words:
    from storage.s3.params import SourceParams
    from storage.s3.patterns import check_patterns

    return _Words(SourceParams, check_patterns, {"Bucket": "bucket"})


def _ipfs() -> _Words:
    from storage.ipfs.cid import EMPTY_CID
    from storage.ipfs.params import SourceParams

    return _Words(SourceParams, stand_ins={"CID": EMPTY_CID})


def _url() -> _Words:
    from storage.url.params import UrlParams

    return _Words(UrlParams, stand_ins={"URL": "http://host/"})


def _local() -> _Words:
    from storage.local import LocalParams

    return _Words(LocalParams, stand_ins={"SourcePath": "/"})


def _inline() -> _Words:
    from storage.inline import InlineParams

    return _Words(InlineParams, stand_ins={"URL": "data:,"})


def _to_s3() -> _Words:
    from storage.s3.params import PublisherParams

    return _Words(PublisherParams, stand_ins={"Bucket": "bucket", "Key": "key"})


def _to_managed() -> _Words:
    from storage.s3.managed import ManagedParams

    return _Words(ManagedParams)


def _to_ipfs() -> _Words:
    from storage.ipfs.params import PublisherParams

    return _Words(PublisherParams)


def _to_local() -> _Words:
    from storage.local_publisher import LocalPublisherParams

    return _Words(LocalPublisherParams)


FORMS: Final[Mapping[str, Mapping[str, Callable[[], _Words]]]] = {
    "source": {"s3": _s3, "ipfs": _ipfs, "urldownload": _url, "local": _local, "inline": _inline},
    "publisher": {"s3": _to_s3, "s3managed": _to_managed, "ipfs": _to_ipfs, "local": _to_local},
}


@cache
def words_of(what: str, type: str) -> _Words | None:
    """The form of a ``source`` or ``publisher`` of a type in lower case; None for one that has no driver."""
    find = FORMS[what].get(type)
    return find() if find else None


def look(what: str, spec: Spec) -> Iterator[ParamFault]:
    """All that can never work in the parameters of a ``source`` or ``publisher``: a `protocol.spec.look.Look`.

    A field that is wrong is left out, and one that it cannot do without has its stand-in, so that the next are found too.
    """
    words = words_of(what, spec.type.lower())
    if words is None:
        return
    params: Any = dict(spec.params)
    # Each fault takes a field away or puts a stand-in there.
    for _ in range(_fields(params) + len(words.stand_ins) + 1):
        try:
            read_params(params, words.form, f"{what} {spec.type}", words.check)
            return
        except Unfit as fault:
            yield _told(fault)
            left = _without(params, fault.at)
            if left == params and len(fault.at) > 1:
                # What lacks something cannot be made whole by taking from it.
                left = _without(params, fault.at[:1])
            name = str(fault.at[0]) if fault.at else ""
            if name in words.stand_ins:
                left[name] = words.stand_ins[name]
            if left == params:
                return
            params = left


def _told(fault: Unfit) -> ParamFault:
    said = f"{fault.said}. {fault.hint}" if fault.hint and not fault.near else fault.said
    short = said if len(said) <= SAID_MAX_CHARACTERS else f"{said[:SAID_MAX_CHARACTERS]}…"
    return ParamFault(fault.at, short, near=fault.near, unknown=fault.unknown, name=fault.name)


def _fields(params: Any) -> int:
    """How many fields there are, at every depth."""
    if isinstance(params, Mapping):
        return sum(1 + _fields(each) for each in params.values())
    return sum(1 + _fields(each) for each in params) if isinstance(params, list) else 0


def _without(params: Any, at: Path) -> Any:
    """The parameters without the one at that place: as it is written if it is there so, else in any case."""
    if not at or not isinstance(params, Mapping):
        return params
    name, *inside = at
    written = [key for key in params if key == name] or [
        key for key in params if str(key).lower() == str(name).lower()
    ]
    if not inside:
        return {key: value for key, value in params.items() if key not in written}
    return {key: _without(value, tuple(inside)) if key in written else value for key, value in params.items()}
