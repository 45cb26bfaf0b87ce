"""The keys of a cluster: who signs, who was enrolled, whose keys no longer count; one file that only its owner can read.

Knows: where keys are kept and what enrolling, revoking and rotating do to them. Must not know: what a role may do
(`deploy.claims`), or how servers are told (`deploy.accounts`).

The file holds the seeds that sign accounts and users. It is the cluster's whole power: it belongs on a machine that people
trust, is needed on no node, requester or server, and is worth a copy in a safe place. Seeds of users are never kept: they
are in the credentials file of the one whom they are for.
"""

import contextlib
import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import nkeys
from msgspec import Struct, field

from deploy import claims
from protocol.errors import Conflict, Denied, Exhausted, Fault, Invalid, NotFound
from protocol.ids import is_token
from protocol.nats.credentials import text_of

ACCOUNTS_FILE: Final = "accounts.conf"
"""What ``nats.conf`` includes: the operator and the accounts as they are when a server starts for the first time."""

_HEAD: Final = """# Who signs for this cluster, and its accounts. Nothing here is secret. Made by `shoal cluster init`.
# The same file goes beside nats.conf on every server. What changes later (a revoked key), servers are told and keep.
"""


class Issued(Struct, forbid_unknown_fields=True):
    """One who was enrolled. `keys` are its public keys that count, the newest last; the older wait for `rotate --finish`."""

    role: str
    keys: list[str]
    at: int


class Book(Struct, forbid_unknown_fields=True):
    """What the file holds: seeds by what they sign, the enrolled by role and name, and revoked keys with the time."""

    operator: str
    accounts: dict[str, str]
    signing: dict[str, str]
    signed_at: int
    issued: dict[str, Issued] = field(default_factory=dict)
    revoked: dict[str, dict[str, int]] = field(default_factory=dict)


class Enrolled(Struct, frozen=True):
    """A new identity: its public key, and what its file of credentials says."""

    name: str
    key: str
    credentials: str


class Keyring:
    """The keys in a file. Changes are written at once, whole or not at all."""

    def __init__(self, path: Path, book: Book) -> None:
        self.path = path
        self._book = book

    @classmethod
    def create(cls, path: Path) -> "Keyring":
        """Make the keys of a new cluster. Raises `Conflict` if there are some: replacing them would lock everybody out."""
        if path.exists():
            raise Conflict(
                f"{path} holds the keys of a cluster already", hint="Name another file with --keys."
            )
        book = Book(
            _seed(nkeys.PREFIX_BYTE_OPERATOR),
            {name: _seed(nkeys.PREFIX_BYTE_ACCOUNT) for name in claims.ACCOUNTS},
            {role: _seed(nkeys.PREFIX_BYTE_ACCOUNT) for role in claims.ACCOUNT_OF},
            _now(),
        )
        made = cls(path, book)
        made._save()
        return made

    @classmethod
    def read(cls, path: Path) -> "Keyring":
        """The keys in a file. Raises `NotFound`, `Denied` and `Invalid`."""
        try:
            return cls(path, msgspec.json.decode(path.read_bytes(), type=Book))
        except FileNotFoundError as error:
            raise NotFound(
                f"there are no keys at {path}",
                hint="`shoal cluster init` makes them, once for a cluster; --keys names the file.",
            ) from error
        except msgspec.DecodeError as error:
            raise Invalid(f"{path} does not hold the keys of a cluster: {error}") from error
        except OSError as error:
            raise _unusable(path, error) from error

    @classmethod
    @contextlib.contextmanager
    def changing(cls, path: Path) -> Iterator["Keyring"]:
        """The keys in a file, which no other command changes meanwhile."""
        cls.read(path)
        # Beside it: the file itself is replaced by each change.
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield cls.read(path)
        finally:
            os.close(lock)

    # Who there is

    def listed(self) -> list[tuple[str, Issued]]:
        """Names and what was issued to them, in order."""
        return [(slot.partition("/")[2], issued) for slot, issued in sorted(self._book.issued.items())]

    def enroll(self, role: str, name: str, key: str = "") -> Enrolled:
        """Give a name its credentials. `key` is a public key whose seed its owner made and keeps; empty makes one here.

        Raises `Invalid` (the name or key is none) and `Conflict` (the name has credentials).
        """
        if not is_token(name):
            raise Invalid(f"{name!r} is no name", hint="Use 1 to 64 letters, digits, '_' or '-'.")
        if _slot(role, name) in self._book.issued:
            raise Conflict(
                f"{role} {name} is enrolled already",
                hint=f"`shoal {role} rotate {name}` gives it a new key, `revoke` takes its credentials away.",
            )
        made = self._sign(role, name, key)
        self._book.issued[_slot(role, name)] = Issued(role, [made.key], _now())
        self._save()
        return made

    def rotate(self, role: str, name: str, key: str = "") -> Enrolled:
        """Give one who is enrolled a new key; the old one counts until `finish`. Raises `NotFound` and `Invalid`."""
        issued = self._issued(role, name)
        made = self._sign(role, name, key)
        issued.keys.append(made.key)
        issued.at = _now()
        self._save()
        return made

    def finish(self, role: str, name: str) -> list[str]:
        """Revoke all keys of a name but its newest; returns them. Raises `NotFound`."""
        issued = self._issued(role, name)
        *old, newest = issued.keys
        self._revoke(role, old)
        issued.keys = [newest]
        self._save()
        return old

    def revoke(self, role: str, name: str) -> list[str]:
        """Revoke all keys of a name, and forget it; returns them. Raises `NotFound`."""
        old = self._issued(role, name).keys
        self._revoke(role, old)
        del self._book.issued[_slot(role, name)]
        self._save()
        return old

    def _issued(self, role: str, name: str) -> Issued:
        found = self._book.issued.get(_slot(role, name))
        if found is None:
            hint = "`shoal cluster list` shows who is; if servers missed a revocation, `shoal cluster push` tells them."
            raise NotFound(f"no {role} {name} is enrolled", hint=hint)
        return found

    def _revoke(self, role: str, keys: list[str]) -> None:
        gone = self._book.revoked.setdefault(claims.ACCOUNT_OF[role], {})
        gone.update(dict.fromkeys(keys, _now()))

    def _sign(self, role: str, name: str, key: str) -> Enrolled:
        seed = "" if key else _seed(nkeys.PREFIX_BYTE_USER)
        key = key or _public(seed)
        if not _is_user_key(key):
            raise Invalid(
                f"{key!r} is no public key of a user", hint="It begins with U and has 56 characters."
            )
        account, signing = self._book.accounts[claims.ACCOUNT_OF[role]], self._book.signing[role]
        body = claims.user(name, key, account_key=_public(account), signing_key=_public(signing), iat=_now())
        return Enrolled(name, key, text_of(name, claims.encode(body, _signer(signing)), seed))

    # What servers are told

    def accounts_conf(self) -> str:
        """The file `ACCOUNTS_FILE`."""
        keys = self._account_keys()
        operator = claims.operator(_public(self._book.operator), keys[claims.SYSTEM], self._book.signed_at)
        lines = [
            f"operator: {claims.encode(operator, _signer(self._book.operator))}",
            f"system_account: {keys[claims.SYSTEM]}",
            "resolver_preload: {",
            *(f"  {keys[name]}: {jwt}" for name, jwt in self.accounts().items()),
            "}",
        ]
        return _HEAD + "\n".join(lines) + "\n"

    def accounts(self) -> dict[str, str]:
        """The signed accounts by name, as of the last change."""
        keys = self._account_keys()
        signing = {role: _public(seed) for role, seed in self._book.signing.items()}
        return {
            name: claims.encode(
                claims.account(
                    name,
                    keys=keys,
                    signing_keys=signing,
                    operator_key=_public(self._book.operator),
                    revoked=self._book.revoked.get(name, {}),
                    iat=self._book.signed_at,
                ),
                _signer(self._book.operator),
            )
            for name in claims.ACCOUNTS
        }

    def renewed(self, role: str = "") -> list[dict[str, str]]:
        """The accounts, or that of a role alone, signed anew, so that servers take them for newer than what they have;
        twice, as they are told.
        """
        wanted = (claims.ACCOUNT_OF[role],) if role else claims.ACCOUNTS
        signed = []
        for _ in range(2):
            # The servers compare whole seconds.
            self._book.signed_at = max(_now(), self._book.signed_at + 1)
            accounts = self.accounts()
            signed.append({name: accounts[name] for name in wanted})
        self._save()
        return signed

    def messenger(self) -> str:
        """Credentials, made for the moment, of one who may tell servers of changed accounts."""
        account, seed = self._book.accounts[claims.SYSTEM], _seed(nkeys.PREFIX_BYTE_USER)
        body = claims.system_user(_public(seed), account_key=_public(account), iat=_now())
        return text_of("keys", claims.encode(body, _signer(account)), seed)

    def passing(self, role: str, name: str) -> str:
        """Credentials for the moment, of one who is not enrolled: a command that a person runs beside this file."""
        return self._sign(role, name, "").credentials

    def _account_keys(self) -> dict[str, str]:
        return {name: _public(seed) for name, seed in self._book.accounts.items()}

    def _save(self) -> None:
        write_secret(self.path, msgspec.json.format(msgspec.json.encode(self._book), indent=1))


def enrolled(keys: Path, role: str, name: str) -> Path:
    """The file of credentials of a name, beside the keys of a cluster on one machine; made when first asked for."""
    path = keys.parent / "credentials" / f"{role}-{name}.creds"
    if not path.exists():
        with Keyring.changing(keys) as keyring:
            write_secret(path, keyring.enroll(role, name).credentials.encode())
    return path


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises `Denied`, `Exhausted` or `Invalid`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> Fault:
    if isinstance(error, PermissionError):
        return Denied(f"{path} cannot be used: {error.strerror}")
    return Exhausted(f"{path} cannot be used: {error.strerror}")


def _slot(role: str, name: str) -> str:
    return f"{role}/{name}"


def _seed(prefix: int) -> str:
    seed: bytes = nkeys.encode_seed(secrets.token_bytes(32), prefix)
    return seed.decode()


def _public(seed: str) -> str:
    key: bytes = nkeys.from_seed(bytearray(seed.encode())).public_key
    return key.decode()


def _signer(seed: str) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        signature: bytes = nkeys.from_seed(bytearray(seed.encode())).sign(data)
        return signature

    return sign


def _is_user_key(key: str) -> bool:
    return len(key) == 56 and key[0] == "U" and key.isalnum() and key.isupper()


def _now() -> int:
    return int(time.time())
