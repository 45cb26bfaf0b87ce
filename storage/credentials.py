"""Credentials for web servers, which a node's owner names and a job refers to by that name.

Knows: how an owner writes them, and to which servers each may be sent. Must not know: HTTP sessions, or who asks. A job can
only say which it wants; where it is sent is the owner's word, so that no job can have it sent to a server of its own. What
is secret is in no representation and no message.

    InputSources:
      Types:
        URL:
          Credentials:
            lab: data.example.com bearer TOKEN
            mirror: "*.example.com:8443 basic USER:PASSWORD"
            inside: http://10.0.0.5:8080 bearer @/etc/shoal/inside.token

A secret that begins with ``@`` is read from that file at each use. Without ``http://`` it is sent over TLS only.
"""

import base64
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from msgspec import Struct
from yarl import URL

from protocol.errors import Denied, Invalid
from storage.addresses import plain_host

KINDS: Final = ("bearer", "basic")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Credential(Struct, frozen=True):
    """One of an owner's credentials. `port` None means the scheme's own."""

    name: str
    scheme: str
    host: str
    port: int | None
    kind: str
    secret: str

    def __repr__(self) -> str:
        return f"Credential({self.name}, for {self.host})"

    @property
    def where(self) -> str:
        """The server that it may be sent to, as people write it."""
        return f"{self.scheme}://{self.host}" + (f":{self.port}" if self.port is not None else "")

    def is_for(self, url: URL) -> bool:
        """Whether it may be sent to that URL's server."""
        port = self.port if self.port is not None else (443 if self.scheme == "https" else 80)
        return (
            url.scheme == self.scheme
            and url.port == port
            and fnmatchcase(plain_host(url.host or ""), self.host)
        )

    def header(self) -> str:
        """The value of ``Authorization``. Raises `Denied` if the secret's file cannot be read."""
        secret = self.secret
        if secret.startswith("@"):
            try:
                secret = Path(secret[1:]).read_text().strip()
            except (OSError, UnicodeError) as error:
                raise Denied(
                    f"the credentials {self.name!r} of this node cannot be read",
                    hint="Tell the node's owner.",
                ) from error
        if self.kind == "basic":
            return "Basic " + base64.b64encode(secret.encode()).decode()
        return f"Bearer {secret}"


def read_credentials(lines: Mapping[str, str]) -> dict[str, Credential]:
    """Read what an owner writes, by name. Raises `Invalid`, which repeats no secret.

    A line without a name may look like a name and a value at the ``=`` in its token, so names are words.
    """
    if not all(_NAME.fullmatch(name) for name in lines):
        hint = "Write them like: Credentials: {lab: data.example.com bearer TOKEN}"
        raise Invalid("credentials have a name of 1 to 64 letters, digits, '_', '-' and '.'", hint=hint)
    return {name: _read(name, line) for name, line in lines.items()}


def _read(name: str, line: str) -> Credential:
    parts = line.split(None, 2)
    where = parts[0] if parts else ""
    scheme = "http" if where.startswith("http://") else "https"
    host, _, port = where.removeprefix("http://").removeprefix("https://").rstrip("/").partition(":")
    kind = parts[1].lower() if len(parts) > 1 else ""
    good_port = not port or (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65_536)
    if len(parts) < 3 or not host or "/" in host or not good_port or kind not in KINDS:
        hint = "Write it like: data.example.com bearer TOKEN, or: http://10.0.0.5:8080 basic USER:PASSWORD"
        raise Invalid(f"the credentials {name!r} cannot be read", hint=hint)
    return Credential(name, scheme, plain_host(host), int(port) if port else None, kind, parts[2].strip())
