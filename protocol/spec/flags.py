"""The small languages of the command line: ``-i``, ``-p``, ``-o``, ``-l`` and ``-e``.

Knows: Bacalhau's grammars, and that a URL holds colons, equals signs and (in quotes) commas. Must not know: commands.

    -i ipfs://CID[/path][:/target]        -i https://host:8080/data.csv?v=2:/in        -i file:///data,opt=rw=true
    -i ./my/folder:/in     -i src=./data.csv,dst=/in/data.csv,opt=to=ipfs     -i /ipfs/CID:/in:rw
    -i src=s3://bucket/key,dst=/my/input/path,opt=endpoint=http://s3.example.com,opt=region=us-east-1
    -p ipfs     -p s3://bucket/key,opt=endpoint=http://s3.example.com,opt=region=us-east-1
    -o outputs:/outputs                   -l owner=me                                 -e MODE=fast

Values are CSV: a field that holds a comma is put in double quotes, as in ``-i 'src=s3://b/k,"opt=filter=a,b"'``.
Everything here raises `Invalid`, naming the flag, what is wrong with it, and what to write.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import unquote, urlsplit

import msgspec

from protocol.errors import Invalid
from protocol.jobs import Input, ResultPath, Spec
from protocol.spec.drivers import OWN, is_relative
from protocol.spec.faults import quoted, shown
from protocol.spelling import near

TARGET_DEFAULT: Final = "/inputs"

_INPUT_HINT: Final = (
    "Inputs look like ipfs://CID:/in, https://host/file:/in, ./my/folder:/in, file:///path/on/node:/in or "
    "src=s3://bucket/key,dst=/in,opt=region=us-east-1."
)
_PUBLISHER_HINT: Final = "Publishers are ipfs, local, s3managed or s3://bucket/key,opt=region=us-east-1."
_SOURCE_KEYS: Final = ("source", "src")
_TARGET_KEYS: Final = ("destination", "dst", "target")
_OPTION_KEYS: Final = ("opt", "option")

_S3_INPUT_OPTIONS: Final = {
    "endpoint": "Endpoint",
    "region": "Region",
    "versionid": "VersionID",
    "version-id": "VersionID",
    "checksum-256": "ChecksumSHA256",
    "checksumsha256": "ChecksumSHA256",
    "filter": "Filter",
    "allowempty": "AllowEmpty",
    "profile": "Profile",
    "addressingstyle": "AddressingStyle",
    "requesterpays": "RequesterPays",
}
_S3_PUBLISHER_OPTIONS: Final = {
    "endpoint": "Endpoint",
    "region": "Region",
    "encoding": "Encoding",
    "bucket": "Bucket",
    "key": "Key",
    "overwrite": "Overwrite",
    "profile": "Profile",
    "addressingstyle": "AddressingStyle",
    "storageclass": "StorageClass",
    "acl": "ACL",
    "serversideencryption": "ServerSideEncryption",
    "ssekmskeyid": "SSEKMSKeyID",
}
_IPFS_PUBLISHER_OPTIONS: Final = {
    "cidversion": "CIDVersion",
    "rawleaves": "RawLeaves",
    "chunker": "Chunker",
    "name": "Name",
    "remoteservice": "RemoteService",
}
_URL_OPTIONS: Final = {
    "name": "Name",
    "sha256": "SHA256",
    "size": "Size",
    "credentials": "Credentials",
}
_WRITABLE: Final = ("rw", "readwrite")
"""Of a path on a node it opens the path itself, of all else the program's copy."""
_FILE_OPTIONS: Final = {**dict.fromkeys(_WRITABLE, "ReadWrite"), "createas": "CreateAs"}
_TARGET: Final = re.compile(r"(?P<source>.+):(?P<target>/(?!/).*?)(?P<mode>:r[ow])?", re.DOTALL)
_CID: Final = re.compile(r"(Qm[1-9A-HJ-NP-Za-km-z]{44}|baf[a-z2-7]{50,})(/.*)?", re.DOTALL)
_TRUE: Final = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


def inputs(texts: Iterable[str]) -> list[Input]:
    """Read all ``-i`` flags of a command. An alias that two of them would share is left out."""
    read = [parse_input(text) for text in texts]
    aliases = [each.alias for each in read]
    return [
        each if aliases.count(each.alias) == 1 else msgspec.structs.replace(each, alias="") for each in read
    ]


def parse_input(text: str) -> Input:
    """Read one ``-i`` flag. Its alias is its URI, as Bacalhau has it."""
    fields = _fields("-i", text, _INPUT_HINT)
    source, target, options = "", "", dict[str, str]()
    for index, each in enumerate(fields):
        key, equals, value = each.partition("=")
        key = key.strip().lower()
        if equals and key in _SOURCE_KEYS:
            source = value
        elif equals and key in _TARGET_KEYS:
            target = value
        elif equals and key in _OPTION_KEYS:
            _add_option("-i", options, value)
        elif index == 0 and ("://" in each or not equals or _is_own(each)):
            source, target, mode = _split_target(each)
            if mode:
                options["rw"] = str(mode == ":rw")
        else:
            _refuse_field("-i", each, key, (*_SOURCE_KEYS, *_TARGET_KEYS, *_OPTION_KEYS), _INPUT_HINT)
    if not source:
        raise Invalid(f"-i {quoted(text)}: it names no source", hint=_INPUT_HINT)
    target = target or TARGET_DEFAULT
    if not target.startswith("/"):
        raise Invalid(
            f"-i {quoted(text)}: the target {quoted(target)} is not an absolute path", hint=_INPUT_HINT
        )
    copied = False
    if source.partition("://")[0].lower() != "file":
        given = {name.lower(): name for name in options}
        for name in _WRITABLE:
            if name in given:
                copied = _truth(name, options.pop(given[name]))
    read = Input(source=_source(source, options), target=target, alias=source)
    return msgspec.structs.replace(read, read_write=True) if copied else read


def parse_publisher(text: str) -> Spec:
    """Read a ``-p`` flag."""
    first, *rest = _fields("-p", text, _PUBLISHER_HINT)
    options: dict[str, str] = {}
    for each in rest:
        key, equals, value = each.partition("=")
        if not equals or key.strip().lower() not in _OPTION_KEYS:
            _refuse_field("-p", each, key.strip().lower(), _OPTION_KEYS, _PUBLISHER_HINT)
        _add_option("-p", options, value)
    name, scheme, rest_of_url = first.partition("://")
    match name.strip().lower():
        case "s3":
            params = _known("-p s3", options, _S3_PUBLISHER_OPTIONS)
            bucket, _, key = rest_of_url.partition("/")
            params = {**({"Bucket": bucket} if bucket else {}), **({"Key": key} if key else {}), **params}
            missing = [each for each in ("Bucket", "Key") if not params.get(each)]
            if missing:
                raise Invalid(
                    f"-p {quoted(text)}: it names no {' and no '.join(missing)}", hint=_PUBLISHER_HINT
                )
            return Spec("s3", params)
        case "ipfs" if not rest_of_url:
            return Spec("ipfs", _known("-p ipfs", options, _IPFS_PUBLISHER_OPTIONS))
        case "local" | "noop" | "s3managed" as type if not rest_of_url:
            _known(f"-p {type}", options, {})
            return Spec("" if type == "noop" else type, {})
        case other:
            meant = near(other, ("ipfs", "local", "s3managed", "s3")) if not scheme else ""
            also = f'Did you mean "{meant}"? ' if meant else ""
            raise Invalid(f"-p {quoted(text)}: no such publisher", hint=also + _PUBLISHER_HINT)


def parse_result_path(text: str) -> ResultPath:
    """Read an ``-o`` flag: ``name:path``."""
    name, colon, path = text.partition(":")
    name, path = name.strip(), path.strip()
    if not (colon and name and path.startswith("/")):
        raise Invalid(
            f"-o {quoted(text)}: it is not a name and an absolute path",
            hint="Write it like outputs:/outputs.",
        )
    return ResultPath(name, path)


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Read all ``-l`` flags: ``key=value``, several in one with commas."""
    labels: dict[str, str] = {}
    for text in texts:
        for each in _fields("-l", text, "Labels look like owner=me."):
            key, equals, value = each.partition("=")
            if not (equals and key.strip()):
                raise Invalid(f"-l {quoted(each)}: it is not key=value", hint="Labels look like owner=me.")
            labels[key.strip()] = value
    return labels


def parse_env(texts: Iterable[str]) -> dict[str, str]:
    """Read all ``-e`` flags: ``KEY=value``, one each; everything behind the first ``=`` is the value."""
    env: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise Invalid(
                f"-e {quoted(key)}: it is not KEY=value",
                hint=f"Write {shown(key) or 'KEY'}=value, or {shown(key) or 'KEY'}=env:NAME to read NAME on the node.",
            )
        env[key.strip()] = value
    return env


def _fields(flag: str, text: str, hint: str) -> list[str]:
    try:
        rows = list(csv.reader([text], strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise Invalid(
            f"{flag} {quoted(text)}: {error}", hint='Put a field with a comma in double quotes: "a,b".'
        ) from error
    fields = [each.strip() for row in rows for each in row]
    if not any(fields):
        raise Invalid(f"{flag}: it is empty", hint=hint)
    return fields


def _split_target(text: str) -> tuple[str, str, str]:
    """A URI, the target behind the last ``:/`` (the one of ``://`` is part of the URI), and Docker's ``:ro`` or ``:rw``."""
    found = _TARGET.fullmatch(text)
    return (found["source"], found["target"], found["mode"] or "") if found else (text, "", "")


def _add_option(flag: str, options: dict[str, str], text: str) -> None:
    name, equals, value = text.partition("=")
    if not (equals and name.strip()):
        raise Invalid(
            f"{flag}: the option {quoted(text)} is not name=value",
            hint="Options look like opt=region=us-east-1.",
        )
    options[name.strip()] = value


def _is_own(text: str) -> bool:
    """Whether this is a path on the person's own machine; one on a node is written as a ``file://`` URI."""
    return text.startswith("/") or is_relative(text)


def _source(uri: str, options: Mapping[str, str]) -> Spec:
    if uri.startswith(("/ipfs/", "/ipns/")):
        # Kubo's own way of writing them.
        uri = uri[1:].replace("/", "://", 1)
    if _is_own(uri):
        return Spec(OWN, {"Path": uri, **_known("-i PATH", options, {"to": "To"})})
    scheme, separator, rest = uri.partition("://")
    match scheme.lower() if separator else "":
        case "ipfs":
            _known("-i ipfs", options, {})
            return Spec("ipfs", {"CID": _present(uri, rest.strip("/"), "CID")})
        case "ipns":
            _known("-i ipns", options, {})
            return Spec("ipfs", {"CID": f"/ipns/{_present(uri, rest.strip('/'), 'name')}"})
        case "s3":
            bucket, _, key = rest.partition("/")
            params = {"Bucket": _present(uri, bucket, "bucket"), "Key": key}
            return Spec("s3", params | _known("-i s3", options, _S3_INPUT_OPTIONS))
        case "http" | "https":
            return Spec("urlDownload", {"URL": _url(uri), **_known("-i https", options, _URL_OPTIONS)})
        case "file":
            return Spec("local", {"SourcePath": _file_path(uri, rest)} | _file_options(options))
        case "git" | "gitlfs":
            raise Invalid(
                f"-i {quoted(uri)}: {scheme} is not supported",
                hint="Clone it, and give it as local data or by URL.",
            )
        case other:
            schemes = ("ipfs", "s3", "https", "http", "file")
            meant = near(other, schemes) if other else ""
            also = f'Did you mean "{meant}://"? ' if meant else _meant_plainly(uri)
            raise Invalid(f"-i {quoted(uri)}: it is not a URI of a known kind", hint=also + _INPUT_HINT)


def _meant_plainly(text: str) -> str:
    """What may be meant by a text without a scheme: a CID, or what lies here."""
    if _CID.fullmatch(text.removeprefix("ipfs:")):
        return f'Did you mean "ipfs://{shown(text.removeprefix("ipfs:"))}"? '
    return f'A path of your own begins with ./, as "./{shown(text)}". ' if ":" not in text else ""


def _url(uri: str) -> str:
    try:
        host = urlsplit(uri).hostname
    except ValueError as error:
        raise Invalid(f"-i {quoted(uri)}: {error}", hint=_INPUT_HINT) from error
    _present(uri, host or "", "host")
    return uri


def _file_path(uri: str, rest: str) -> str:
    path = unquote(rest.removeprefix("localhost"))
    if not path.startswith("/"):
        raise Invalid(
            f"-i {quoted(uri)}: it is not an absolute path",
            hint="A path on the node has three slashes: file:///data/in.",
        )
    return path


def _file_options(options: Mapping[str, str]) -> dict[str, Any]:
    params: dict[str, Any] = _known("-i file", options, _FILE_OPTIONS)
    if "ReadWrite" in params:
        params["ReadWrite"] = _truth("rw", params["ReadWrite"])
    return params


def _truth(name: str, text: str) -> bool:
    if text.lower() not in _TRUE:
        raise Invalid(f"-i: opt={name} is {quoted(text)}", hint="Write opt=rw=true or opt=rw=false.")
    return _TRUE[text.lower()]


def _known(what: str, options: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Options under the names of their params."""
    params: dict[str, str] = {}
    for name, value in options.items():
        param = names.get(name.lower())
        if param is None:
            meant = near(name, names)
            takes = f"It takes {', '.join(names)}." if names else "It takes no options."
            raise Invalid(
                f"{what}: unknown option {quoted(name)}", hint=f'Did you mean "{meant}"?' if meant else takes
            )
        params[param] = value
    return params


def _present(uri: str, value: str, what: str) -> str:
    if not value:
        raise Invalid(f"-i {quoted(uri)}: it names no {what}", hint=_INPUT_HINT)
    return value


def _refuse_field(flag: str, field: str, key: str, known: Iterable[str], hint: str) -> NoReturn:
    meant = near(key, known)
    also = f'Did you mean "{meant}="? ' if meant else ""
    raise Invalid(f"{flag}: the part {quoted(field)} cannot be read", hint=also + hint)
