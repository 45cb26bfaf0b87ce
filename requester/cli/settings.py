"""``shoal config …``: which settings are in force here, where each comes from, and how one is kept for next time.

Knows: the keys of clients and requesters, and the person's configuration file. Must not know: what any setting does. Below
the keys of nodes it takes whatever is written: a node says itself what it does not know.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from protocol.config import Config, config_files, own_file, read_config, read_file, secret
from protocol.errors import Conflict, Denied, Invalid
from protocol.spelling import did_you_mean, nearest
from requester.cli import endpoint
from requester.cli.configuration import CLIENTS, COMPUTE_NODES, OWN, SIGNING
from requester.cli.endpoint import Api
from requester.cli.exits import Exit
from requester.cli.output import ListFormat, print_list

KNOWN: Final = tuple(dict.fromkeys((*endpoint.KEYS, *OWN, *SIGNING)))
HIDDEN: Final = "********"


def list_settings(*, how: ListFormat = ListFormat(), api: Api = Api()) -> int:
    """List the settings that are made here and where each comes from; what is not listed has its default."""
    rows = [
        {"Key": each.key, "Value": HIDDEN if secret(each.key) else each.value, "From": each.where}
        for each in _config(api).in_force()
    ]
    print_list(
        rows,
        [
            ("KEY", lambda each: each["Key"]),
            ("VALUE", lambda each: _text(each["Value"])),
            ("FROM", lambda each: each["From"]),
        ],
        how,
    )
    return Exit.OK


def set_setting(
    setting: Annotated[str, Parameter(help="Key=Value, or the key alone with its value behind it.")],
    value: Annotated[str | None, Parameter(help="The value; an empty one takes the setting away.")] = None,
    /,
    *,
    config: Annotated[
        Path | None, Parameter(alias="-c", help="The file; default ~/.config/shoal/config.yaml.")
    ] = None,
) -> int:
    """Write a setting into a configuration file."""
    key, equals, behind = setting.partition("=")
    if bool(equals) == (value is not None):
        raise Invalid(f"{setting!r} has no value", hint="Write it like API.Port=1234.")
    key = _known(key.strip())
    file = (config or own_file(os.environ)).absolute()
    told = behind if equals else str(value)
    write_settings(file, {key: told})
    shown = HIDDEN if told and secret(key) else told
    print(f"{key} = {shown or 'its default'}, in {file}")
    return Exit.OK


def _config(api: Api) -> Config:
    return read_config(
        flags={"API.Host": api.api_host, "API.Port": api.api_port or None},
        given=api.config or [],
        environ=os.environ,
        files=config_files(os.environ, Path.cwd()),
        keys=KNOWN,
    )


def _known(key: str) -> str:
    """The key as it is spelled where it is read. Raises `Invalid` for one that nobody reads."""
    by_lower = {each.lower(): each for each in KNOWN}
    if key.lower() in by_lower:
        return by_lower[key.lower()]
    if key.lower().startswith(
        tuple(f"{each.lower()}." for each in (*COMPUTE_NODES, *CLIENTS, "JobDefaults"))
    ):
        return key
    raise Invalid(f"{key!r} is no setting", hint=did_you_mean(nearest(key, by_lower.values())))


def write_settings(file: Path, changes: Mapping[str, Any]) -> None:
    """Write these into a file of settings, by dotted key, beside what it has; an empty text takes a setting away.

    Raises `Conflict` where comments would be lost, `Denied` for what cannot be written, `Invalid` for no such file.
    """
    before = read_file(file).settings if file.exists() else {}
    if before and any(line.startswith("#") or " #" in line for line in file.read_text("utf-8").splitlines()):
        raise Conflict(f"{file} has comments, which would be lost", hint="Change it in an editor.")
    changed = {key.lower() for key in changes}
    kept = {each.key: each.value for name, each in before.items() if name not in changed}
    _write(file, kept | {key: value for key, value in changes.items() if value != ""})


def _write(file: Path, settings: Mapping[str, Any]) -> None:
    import yaml

    root: dict[str, Any] = {}
    for key, value in settings.items():
        at, parts = root, key.split(".")
        for part in parts[:-1]:
            # A key that was a value and is now above another one gives way.
            below = at.get(part)
            at[part] = below if isinstance(below, dict) else {}
            at = at[part]
        at[parts[-1]] = value
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{file.name}.new")
        # It may hold secrets, and may have been closed to others before.
        scratch.touch(mode=0o600)
        scratch.write_text(yaml.safe_dump(root, sort_keys=False, allow_unicode=True), "utf-8")
        scratch.replace(file)
    except OSError as error:
        raise Denied(
            f"{file} cannot be written: {error.strerror}", hint="Name another file with -c."
        ) from error


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
