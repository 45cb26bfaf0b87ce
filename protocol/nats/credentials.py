"""A file of credentials: who someone is to the NATS servers, and the key that proves it.

Knows: the form of a ``.creds`` file (a signed name and a seed, as NATS's own tools write it), and how a server's challenge
is signed. Must not know: connections, or who may do what: the servers do.

The file is read again for every connection, so a key that was replaced in it (``shoal node rotate``) is taken up by a
running process the next time it connects. A file that cannot be read at that moment does not disturb one that is up: what
was read last goes on counting.
"""

import base64
import re
from pathlib import Path
from typing import Final

import msgspec
import nkeys
import structlog
from msgspec import Struct

from protocol.errors import Denied, Fault, Invalid, NotFound
from protocol.ids import is_token

_log = structlog.get_logger(__name__)

HINT: Final = "`shoal node enroll NAME` or `shoal requester enroll NAME` makes such a file."
_FORM: Final = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

************************* IMPORTANT *************************
Whoever has the lines below is {name} to the NATS servers. Keep them where only its process can read them.

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""
_JWT: Final = re.compile(r"-BEGIN NATS USER JWT-+\s+(\S+)\s+-+END")
_SEED: Final = re.compile(r"-BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END")


class _Claims(Struct, frozen=True):
    name: str


class _Pair(Struct, frozen=True):
    """What a file of credentials says."""

    name: str
    jwt: str
    seed: str


class Credentials:
    """The credentials in a file. `name` is the name in them. Raises `NotFound`, `Denied` and `Invalid`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pair = _read(path)

    @property
    def name(self) -> str:
        """Who this is: a node's or a requester's name."""
        return self._pair.name

    @property
    def inbox(self) -> str:
        """Where answers to this one arrive, and to nobody else."""
        return f"_INBOX_{self.name}"

    def jwt(self) -> bytes:
        """The signed name, from the file as it is now."""
        try:
            pair = _read(self.path)
        except Fault as fault:
            _log.warning(
                "the credentials cannot be read again; the earlier ones are used", reason=fault.message
            )
        else:
            self._pair = pair
        return self._pair.jwt.encode()

    def sign(self, nonce: str) -> bytes:
        """The answer to a server's challenge, in base64. Asked before `jwt`, so it reads the file as well."""
        self.jwt()
        key = nkeys.from_seed(bytearray(self._pair.seed.encode()))
        try:
            return base64.b64encode(key.sign(nonce.encode()))
        finally:
            key.wipe()


def name_of(path: Path | None, given: str) -> str:
    """The name of one who was `given` a name or credentials or both. Raises as `Credentials`; `Invalid` if they differ."""
    name = Credentials(path).name if path is not None else given
    if given and name != given:
        raise Invalid(
            f"the NATS credentials in {path} are for {name}, not for {given}",
            hint="Leave the name out: it is the one in the credentials.",
        )
    return name


def text_of(name: str, jwt: str, seed: str) -> str:
    """What a file of credentials holds. `seed` empty leaves a place for the one who has it."""
    return _FORM.format(name=name, jwt=jwt, seed=seed or "(put the seed here)")


def _read(path: Path) -> _Pair:
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise NotFound(f"there are no credentials at {path}", hint=HINT) from error
    except OSError as error:
        raise Denied(f"the credentials at {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is no file of NATS credentials", hint=HINT) from error
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        raise Invalid(f"{path} is no file of NATS credentials", hint=HINT)
    try:
        body = jwt[1].split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=_Claims)
        nkeys.from_seed(bytearray(seed[1].encode())).wipe()
    except (IndexError, ValueError, msgspec.DecodeError, nkeys.NkeysError) as error:
        raise Invalid(f"the NATS credentials in {path} are damaged: {error}", hint=HINT) from error
    if not is_token(claims.name):
        raise Invalid(f"the NATS credentials in {path} are for {claims.name!r}, which is no name here")
    return _Pair(claims.name, jwt[1], seed[1])
