"""``shoal cluster …``, ``shoal node enroll`` and the like: who may connect to the NATS servers, made and taken back.

Knows: flags, which file is written where, and what a person is told to do next. Must not know: keys (`deploy.keyring`),
rights (`deploy.claims`), or how servers are told (`deploy.accounts`). No requester is needed: these commands work on the
file of keys, on the machine that has it; only `revoke`, `--finish` and `push` reach the NATS servers.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from protocol import flags
from protocol import server_settings as shared
from protocol.config import config_files, read_config
from protocol.errors import Conflict, Fault
from requester.cli.exits import Exit, tell
from requester.cli.output import Column, ListFormat, print_list, size

if TYPE_CHECKING:
    from deploy.keyring import Enrolled, Keyring

Keys = Annotated[
    Path | None,
    Parameter(help="The file of the cluster's keys (SHOAL_KEYS); default keys.json in the data folder."),
]
Name = Annotated[str, Parameter(name="NAME", help="Its name in the cluster.")]
Finish = Annotated[bool, Parameter(help="The new key is in place: revoke the old one.")]
T = TypeVar("T")
_NODE, _REQUESTER, _PERSON = "node", "requester", "admin"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Issuing:
    """Flags of commands that make credentials."""

    out: Annotated[Path | None, Parameter(help="Where to write the credentials; default NAME.creds.")] = None
    key: Annotated[
        str, Parameter(help="Its public key (U…), if it made its seed itself; the file then lacks the seed.")
    ] = ""
    keys: Keys = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Servers:
    """Flags of commands that reach the NATS servers."""

    nats: flags.Nats = None
    config: flags.Settings = None

    def addresses(self) -> str:
        """Where they are, by flags and settings."""
        settings = read_config(
            flags={"NATS.URL": self.nats},
            given=self.config or [],
            environ=os.environ,
            files=config_files(os.environ, Path.cwd()),
            keys=shared.NATS,
            variables=shared.VARIABLES,
        )
        return ",".join(shared.nats_servers(settings, os.environ))


def init(
    *,
    keys: Keys = None,
    out: Annotated[Path, Parameter(help="Where to write what the NATS servers read.")] = Path(
        "accounts.conf"
    ),
) -> int:
    """Make the keys of a new cluster, and the file that its NATS servers start with."""
    from deploy.keyring import Keyring

    if out.exists():
        raise Conflict(
            f"{out} is there already", hint="It may be another cluster's: name another with --out."
        )
    keyring = Keyring.create(_path(keys))
    out.write_text(keyring.accounts_conf())
    tell(
        f"The keys are in {keyring.path}: whoever has this file rules the cluster, so keep it on this machine, and a copy "
        f"in a safe place.\nNothing in {out} is secret: put it beside nats.conf on every NATS server."
    )
    return Exit.OK


def list_enrolled(*, keys: Keys = None, how: ListFormat = ListFormat()) -> int:
    """List who has credentials."""
    with _changing(keys) as keyring:
        items: list[dict[str, Any]] = [
            {"Name": name, "Role": issued.role, "Keys": issued.keys, "Issued": issued.at}
            for name, issued in keyring.listed()
        ]
    columns: list[Column] = [
        ("NAME", lambda item: item["Name"]),
        ("ROLE", lambda item: item["Role"]),
        ("KEY", lambda item: item["Keys"][-1] if how.wide else item["Keys"][-1][:12]),
        ("ISSUED", lambda item: datetime.fromtimestamp(item["Issued"], UTC).strftime("%Y-%m-%d %H:%M:%S")),
        ("", lambda item: "rotation not finished" if len(item["Keys"]) > 1 else ""),
    ]
    print_list(items, columns, how)
    return Exit.OK


def push(*, keys: Keys = None, servers: Servers = Servers()) -> int:
    """Tell the NATS servers of the accounts as they are: after an upgrade, or when `revoke` could not reach them."""
    with _changing(keys) as keyring:
        signed, messenger = keyring.renewed(), keyring.messenger()
    _tell_servers(servers, messenger, signed)
    return Exit.OK


def backup(
    folder: Annotated[Path, Parameter(name="FOLDER", help="A new folder for it.")],
    /,
    *,
    keys: Keys = None,
    servers: Servers = Servers(),
) -> int:
    """Copy the log, inline data and what is known of nodes from the NATS servers into a folder, while work goes on."""
    from deploy.backup import backup as take

    contents = _reaching(take(servers.addresses(), _as_person(keys), folder))
    for part in contents.streams:
        tell(f"{part.stream}: {part.state.get('messages', 0)} messages, {size(part.size_bytes)}")
    return Exit.OK


def restore(
    folder: Annotated[Path, Parameter(name="FOLDER", help="The folder of a backup.")],
    /,
    *,
    replicas: Annotated[int, Parameter(help="Copies among the NATS servers; default as they were.")] = 0,
    keys: Keys = None,
    servers: Servers = Servers(),
) -> int:
    """Make the streams of a backup on NATS servers that have none."""
    from deploy.backup import restore as put_back

    contents = _reaching(put_back(servers.addresses(), _as_person(keys), folder, replicas))
    tell(f"Restored: {', '.join(part.stream for part in contents.streams)}. Now start the requesters.")
    return Exit.OK


def admin(name: Name, /, *, issuing: Issuing = Issuing()) -> int:
    """Give a person credentials for NATS's own tools: all rights on streams, none on accounts."""
    return _enroll(_PERSON, name, issuing)


def enroll_node(name: Name, /, *, issuing: Issuing = Issuing()) -> int:
    """Give a compute node credentials of its own."""
    return _enroll(_NODE, name, issuing)


def enroll_requester(name: Name, /, *, issuing: Issuing = Issuing()) -> int:
    """Give a requester credentials of its own."""
    return _enroll(_REQUESTER, name, issuing)


def revoke_node(name: Name, /, *, keys: Keys = None, servers: Servers = Servers()) -> int:
    """Take a node's credentials back: the NATS servers cut it off at once."""
    return _revoke(_NODE, name, keys, servers)


def revoke_requester(name: Name, /, *, keys: Keys = None, servers: Servers = Servers()) -> int:
    """Take a requester's credentials back: the NATS servers cut it off at once."""
    return _revoke(_REQUESTER, name, keys, servers)


def revoke_admin(name: Name, /, *, keys: Keys = None, servers: Servers = Servers()) -> int:
    """Revoke a person's credentials."""
    return _revoke(_PERSON, name, keys, servers)


def rotate_node(
    name: Name, /, *, finish: Finish = False, issuing: Issuing = Issuing(), servers: Servers = Servers()
) -> int:
    """Give a node a new key; the old one is valid until --finish."""
    return _finish(_NODE, name, issuing.keys, servers) if finish else _rotate(_NODE, name, issuing)


def rotate_requester(
    name: Name, /, *, finish: Finish = False, issuing: Issuing = Issuing(), servers: Servers = Servers()
) -> int:
    """Give a requester a new key; the old one is valid until --finish."""
    return _finish(_REQUESTER, name, issuing.keys, servers) if finish else _rotate(_REQUESTER, name, issuing)


def _enroll(role: str, name: str, issuing: Issuing) -> int:
    path = _file_of(name, issuing)
    if path.exists():
        raise Conflict(f"{path} is there already", hint="Name another file with --out.")
    with _changing(issuing.keys) as keyring:
        made = keyring.enroll(role, name, issuing.key)
        _write(path, made)
    tell(f"{role} {name} may connect with {path} (public key {made.key}).")
    if role == _PERSON:
        tell(f"For NATS's own tools: nats --creds {path} stream ls")
    else:
        tell(
            f"It is a secret: move it to that machine, and give it to the {role} with --credentials {path.name}."
        )
    return Exit.OK


def _rotate(role: str, name: str, issuing: Issuing) -> int:
    path = _file_of(name, issuing)
    with _changing(issuing.keys) as keyring:
        made = keyring.rotate(role, name, issuing.key)
        # Over the earlier file, if it is here: a running process reads it when it connects again.
        _write(path, made)
    tell(
        f"{path} holds the new key of {role} {name}; the old one counts until then. Put it in the place of the old file, "
        f"then run: shoal {role} rotate {name} --finish"
    )
    return Exit.OK


def _finish(role: str, name: str, keys: Path | None, servers: Servers) -> int:
    """End a rotation: the new key alone counts."""
    old = _ended(role, keys, servers, lambda keyring: keyring.finish(role, name))
    tell(f"{len(old)} old key(s) of {role} {name} count no more.")
    return Exit.OK


def _revoke(role: str, name: str, keys: Path | None, servers: Servers) -> int:
    old = _ended(role, keys, servers, lambda keyring: keyring.revoke(role, name))
    tell(f"{role} {name} may not connect any more ({', '.join(old)}).")
    return Exit.OK


def _ended(
    role: str, keys: Path | None, servers: Servers, end: Callable[["Keyring"], list[str]]
) -> list[str]:
    """Have keys count no more, and tell the servers so; which they were."""
    with _changing(keys) as keyring:
        old = end(keyring)
        signed, messenger = keyring.renewed(role), keyring.messenger()
    _tell_servers(servers, messenger, signed)
    return old


def _tell_servers(servers: Servers, messenger: str, signed: list[dict[str, str]]) -> None:
    from deploy.accounts import push as push_accounts

    try:
        took = _reaching(push_accounts(servers.addresses(), messenger, signed))
    except Fault as fault:
        fault.hint = (
            f"It is written down; no server knows of it yet. Tell them with `shoal cluster push --nats URL`. {fault.hint}"
        ).strip()
        raise
    tell(f"{len(took)} NATS server(s) took it: {', '.join(took)}")


def _reaching(servers: Coroutine[Any, Any, T]) -> T:
    """Talk with the NATS servers. What the connection notes on its way is not for the person who typed a command."""
    import structlog

    from protocol.log_output import set_up

    before = structlog.get_config()
    set_up("auto", "warning")
    try:
        return asyncio.run(servers)
    finally:
        structlog.configure(**before)


def _file_of(name: str, issuing: Issuing) -> Path:
    return issuing.out or Path(f"{name}.creds")


def _as_person(keys: Path | None) -> str:
    with _changing(keys) as keyring:
        return keyring.passing(_PERSON, "backup")


def _write(path: Path, made: "Enrolled") -> None:
    from deploy.keyring import write_secret

    write_secret(path, made.credentials.encode())


def _changing(keys: Path | None) -> AbstractContextManager["Keyring"]:
    from deploy.keyring import Keyring

    return Keyring.changing(_path(keys))


def _path(keys: Path | None) -> Path:
    if keys is not None:
        return keys
    if given := os.environ.get("SHOAL_KEYS"):
        return Path(given).expanduser()
    from platformdirs import user_data_path

    return user_data_path("shoal") / "keys.json"
