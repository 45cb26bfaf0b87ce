"""The names of sources and publishers, and what each cannot do without.

Knows: Bacalhau's types, their older names, and the required parameters that are cheap to look at, so that a person hears of
a slip before submission. Must not know: any driver; its own Struct in ``storage/`` has the last word on its parameters, and
says so through a `protocol.spec.look.Look`, where whoever reads a spec has one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from protocol.errors import Invalid
from protocol.jobs import Spec
from protocol.spec.blobs import is_blob_url, parse_blob_url, parse_data_url
from protocol.spec.bounds import Path
from protocol.spec.faults import Findings, no_such, path_text, quoted
from protocol.spec.look import ParamFault
from protocol.spec.shape import Rules
from protocol.spelling import near

OWN: Final = "own"
"""Type of an input that is a person's own file or folder (``./data``), with ``Path`` and maybe ``To``: whoever reads their
words puts it where nodes find it. No requester knows it."""
IN_PLACE: Final = frozenset({"local", "localdirectory"})
"""Sources whose data is mounted where it lies: nothing is copied, and it takes none of the room for executions."""

Check = Callable[[str], str]
"""Why a parameter's text cannot be right, or an empty text."""


def _any(text: str) -> str:
    return ""


def _bucket(text: str) -> str:
    if "://" in text:
        return f"must be a bucket's name alone, and is {quoted(text)}: what stands behind the name is Key"
    return ""


def _cid(text: str) -> str:
    if "://" in text and not text.strip().startswith(("ipfs://", "ipns://")):
        return f"must be a CID, CID/path or /ipns/NAME, and is {quoted(text)}: a URL is read by urlDownload"
    return ""


def _web_url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError as error:
        return f"is not a URL: {error}"
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
        return "must be a URL that begins with http:// or https://"
    return ""


def _absolute(text: str) -> str:
    if text.startswith("/"):
        return ""
    own = (
        "what begins with ./ lies beside a spec file, and `shoal submit FILE` puts it into the job"
        if is_relative(text)
        else "write ./ before what lies beside this spec and is to travel with the job"
    )
    return f"must be an absolute path on the node, and is {quoted(text)}: {own}"


def is_relative(text: str) -> bool:
    """Whether this is clearly a path on the machine of the person who writes it, seen from where they are."""
    return text.startswith(("./", "../", "~/")) or text in (".", "..", "~")


def _inline(text: str) -> str:
    try:
        if is_blob_url(text):
            parse_blob_url(text)
        else:
            parse_data_url(text)
    except Invalid as fault:
        return f"is wrong: {fault.message}. {fault.hint}".rstrip()
    return ""


SOURCES: Final[Mapping[str, Mapping[str, Check]]] = {
    "ipfs": {"CID": _cid},
    "s3": {"Bucket": _bucket},
    "urlDownload": {"URL": _web_url},
    "local": {"SourcePath": _absolute},
    "inline": {"URL": _inline},
    "s3PreSigned": {"PreSignedURL": _web_url},
    "s3managed": {"JobID": _any, "ExecutionID": _any},
    "noop": {},
}
"""Every source type with the parameters it needs."""

PUBLISHERS: Final[Mapping[str, Mapping[str, Check]]] = {
    "ipfs": {},
    "s3": {"Bucket": _bucket, "Key": _any},
    "s3managed": {},
    "local": {},
    "noop": {},
}
"""Every publisher type with the parameters it needs."""

OLDER_NAMES: Final = {"localdirectory": "local"}
"""What its clients still send, whatever a person typed (``-i file:///data``), and so is nothing to warn of."""
NO_PUBLISHER: Final = ("", "noop")


def read_source(source: Spec, path: Path, rules: Rules) -> Spec:
    """A source under its proper name, with its required parameters under theirs.

    In a person's text a `local` one with a relative path becomes one of type `OWN`.
    """
    findings = rules.findings
    if known := OLDER_NAMES.get(source.type.strip().lower()):
        source = Spec(known, source.params)
    if rules.strict and source.type.strip().lower() == "local":
        params = {key.lower(): (key, value) for key, value in source.params.items() if value is not None}
        where = params.get("sourcepath", ("", ""))[1]
        if isinstance(where, str) and is_relative(where):
            return _own(where, params, (*path, "Params"), findings)
    return _read(source, SOURCES, "source", path, rules)


def _own(where: str, params: Mapping[str, tuple[str, Any]], path: Path, findings: Findings) -> Spec:
    """A person's own file or folder. What travels is a copy, so nothing can be asked for that is about the original."""
    own = {"Path": where}
    for lower, (key, value) in params.items():
        here = (*path, key)
        if lower == "to" and isinstance(value, str):
            own["To"] = value
        elif lower == "readwrite" and value is True:
            hint = f"{quoted(where)} travels with the job as a copy: write ReadWrite beside Source."
            findings.fault(here, f"{path_text(here)} is for paths on a node, and {hint}")
        elif lower not in ("sourcepath", "readwrite"):
            message = f"{path_text(here)} cannot be given for {quoted(where)}, which travels with the job"
            findings.fault(here, message, key=True)
    return Spec(OWN, own)


def read_publisher(publisher: Spec, path: Path, rules: Rules) -> Spec:
    """A publisher under its proper name; one that publishes nothing is an empty `Spec`."""
    if publisher.type.strip().lower() in NO_PUBLISHER and not (
        publisher.params and not publisher.type.strip()
    ):
        return Spec()
    return _read(publisher, PUBLISHERS, "publisher", path, rules)


def _read(spec: Spec, known: Mapping[str, Mapping[str, Check]], what: str, path: Path, rules: Rules) -> Spec:
    findings = rules.findings
    name = spec.type if spec.type in known else _proper(spec.type, known)
    if not spec.type.strip():
        findings.fault((*path, "Type"), f"{path_text((*path, 'Type'))} is missing")
        return spec
    if name is None:
        findings.fault((*path, "Type"), no_such(what, spec.type, known), near=near(spec.type, known))
        return spec
    here = (*path, "Params")
    read = Spec(name, _check(spec.params, known[name], here, findings))
    for fault in rules.look(what, read):
        _tell(fault, here, rules)
    return read


def _tell(fault: ParamFault, path: Path, rules: Rules) -> None:
    """Pass on what a driver says, but for a program's unknown parameters: nodes of a newer version may know them."""
    here = (*path, *fault.at)
    if not fault.unknown:
        rules.findings.fault(here, f"{path_text(here)}{fault.said}", near=fault.near, key=fault.name)
    elif rules.strict:
        message = f"unknown key {quoted(str(here[-1]))} in {path_text(here[:-1])}"
        rules.findings.fault(here, message, near=fault.near, key=True)


def _proper(type: str, known: Iterable[str]) -> str | None:
    """The name of a type that may be written in another case."""
    lower = type.strip().lower()
    return next((name for name in known if name.lower() == lower), None)


def _check(
    params: Mapping[str, Any], checks: Mapping[str, Check], path: Path, findings: Findings
) -> dict[str, Any]:
    """The parameters without nulls, those that are looked at under their proper names."""
    proper = {name.lower(): name for name in checks}
    read: dict[str, Any] = {}
    for key, value in params.items():
        name = proper.get(key.lower(), key)
        if name in read:
            findings.fault((*path, key), f"{path_text((*path, name))} is given twice", key=True)
        elif value is not None:
            read[name] = value
    for name, check in checks.items():
        here = (*path, name)
        value = read.get(name)
        if value is None or value == "":
            findings.fault(here, f"{path_text(here)} is missing")
        elif not isinstance(value, str):
            findings.fault(here, f"{path_text(here)} must be a text")
        elif wrong := check(value):
            findings.fault(here, f"{path_text(here)} {wrong}")
    return read
