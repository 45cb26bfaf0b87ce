"""What each account and each role may do, as the signed claims (JWT) that NATS servers read.

Knows: the accounts HUB and NODES with what crosses between them, the rights of a requester, a node and a person, and the
form of the claims. Must not know: where keys are kept, who has which name, or servers. Pure: the time is given.

A role's rights are written once, in its account, as the template of a scoped signing key: whoever carries a user signed
with that key has the template's rights, with its own name in the places of ``{{name()}}``. So a user's claims hold a name
and nothing else, enrolling one changes nothing at the servers, and a new version of shoal can change what a role may do
without touching anyone's credentials. The subjects are those of `protocol.subjects`; ``docs/credentials.md`` shows the
whole as a table, and ``tests/deploy/test_nats_conf.py`` attacks it on a real server.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from protocol.subjects import (
    ALL_BEATS,
    ALL_COMMANDS,
    ALL_LOGS,
    ALL_PROGRESS,
    ALL_REPORTS,
    ALL_RESULTS,
    ALL_UPLOADS,
    BLOB_READ,
    BLOB_STREAM,
    BLOB_SUBJECTS,
    CELL_BUCKET,
    LOG_STREAM,
    LOG_SUBJECTS,
)

Claims = dict[str, Any]
Sign = Callable[[bytes], bytes]

SYSTEM: Final = "SYS"
HUB: Final = "HUB"
NODES: Final = "NODES"
ACCOUNTS: Final = (SYSTEM, HUB, NODES)

NODE: Final = "node"
REQUESTER: Final = "requester"
PERSON: Final = "admin"
ACCOUNT_OF: Final[Mapping[str, str]] = {NODE: NODES, REQUESTER: HUB, PERSON: HUB}
"""The roles, and the account in which each is."""

SECOND_NS: Final = 10**9
_SELF: Final = "{{name()}}"
_NO_LIMIT: Final = -1

_OPEN: Final[Claims] = {"subs": _NO_LIMIT, "data": _NO_LIMIT, "payload": _NO_LIMIT}


def _stream_api(stream: str, *calls: str) -> list[str]:
    return [f"$JS.API.{call.format(stream)}" for call in calls]


_MAKE_AND_READ: Final = ("STREAM.CREATE.{}", "STREAM.INFO.{}", "STREAM.MSG.GET.{}")
_CONSUME: Final = (
    "CONSUMER.CREATE.{}",
    "CONSUMER.CREATE.{}.>",
    "CONSUMER.INFO.{}.*",
    "CONSUMER.MSG.NEXT.{}.*",
    "CONSUMER.DELETE.{}.*",
)
_ASKED_BY_NODES: Final = (ALL_REPORTS, BLOB_READ, ALL_UPLOADS)
_CELL_STREAM: Final = f"KV_{CELL_BUCKET}"


def _stream(subject: str) -> Claims:
    return {"name": subject, "subject": subject, "type": "stream"}


def _service(subject: str, response: str = "Singleton") -> Claims:
    return {"name": subject, "subject": subject, "type": "service", "response_type": response}


# The border between the accounts is not decoration: a reply subject is checked against no permission, so inside one account
# whoever may send a request could aim its answer at any subject, the log included. Across the border the reply becomes one
# that the server made.
_EXPORTS: Final[Mapping[str, tuple[Claims, ...]]] = {
    SYSTEM: (),
    HUB: tuple(_service(each) for each in _ASKED_BY_NODES),
    NODES: (
        _stream(ALL_BEATS),
        _stream(ALL_PROGRESS),
        _service(ALL_COMMANDS),
        _service(ALL_LOGS, "Stream"),
        _service(ALL_RESULTS),
    ),
}
"""What each account offers to the one across the border."""
_ACROSS: Final[Mapping[str, str]] = {HUB: NODES, NODES: HUB}

RIGHTS: Final[Mapping[str, Claims]] = {
    NODE: {
        # It speaks as itself, of itself, and hears what is said to it; of the log it knows nothing.
        "pub": {
            "allow": [
                *(f"report.{_SELF}.*", BLOB_READ, f"upload.{_SELF}"),
                *(f"node.{_SELF}.beat", f"node.{_SELF}.progress"),
            ],
        },
        "sub": {
            "allow": [
                *(f"node.{_SELF}.do", f"node.{_SELF}.logs", f"node.{_SELF}.results"),
                f"_INBOX_{_SELF}.>",
            ]
        },
        # A request for logs is answered in many pieces.
        "resp": {"max": 100_000, "ttl": 3_600 * SECOND_NS},
        **_OPEN,
    },
    REQUESTER: {
        "pub": {
            "allow": [
                # The log; blobs, for inline data too large for an entry; cells, for membership and settings.
                *(LOG_SUBJECTS, BLOB_SUBJECTS, f"$KV.{CELL_BUCKET}.>", "$JS.API.INFO"),
                *_stream_api(LOG_STREAM, *_MAKE_AND_READ, "STREAM.PURGE.{}", *_CONSUME),
                *_stream_api(BLOB_STREAM, *_MAKE_AND_READ, "STREAM.PURGE.{}"),
                *_stream_api(_CELL_STREAM, *_MAKE_AND_READ, "STREAM.PURGE.{}"),
                # What requesters say to nodes and to each other.
                *(ALL_COMMANDS, ALL_LOGS, ALL_RESULTS, f"req.{_SELF}.>"),
            ],
        },
        "sub": {
            "allow": [
                *(ALL_REPORTS, BLOB_READ, ALL_UPLOADS, ALL_BEATS, ALL_PROGRESS),
                *("req.>", f"_INBOX_{_SELF}.>"),
            ],
        },
        # A node's report waits for the commit that contains it.
        "resp": {"max": 1, "ttl": 60 * SECOND_NS},
        **_OPEN,
    },
    # Creates, changes, backs up and restores streams. No process of shoal runs with it.
    PERSON: {"pub": {"allow": [">"]}, "sub": {"allow": [">"]}, **_OPEN},
}


def operator(key: str, system_account: str, iat: int) -> Claims:
    """The claims of whoever signs accounts: the servers trust nothing else."""
    return _claims(key, key, "shoal", iat, {"type": "operator", "system_account": system_account})


def account(
    name: str,
    *,
    keys: Mapping[str, str],
    signing_keys: Mapping[str, str],
    operator_key: str,
    revoked: Mapping[str, int],
    iat: int,
) -> Claims:
    """The claims of one of `ACCOUNTS`.

    `keys` are the accounts' public keys, `signing_keys` those of the roles, `revoked` the users' keys of this account that
    count no more, with the time (unix seconds) up to which what was issued for them is void.
    """
    roles = [role for role, home in ACCOUNT_OF.items() if home == name]
    body: Claims = {
        "type": "account",
        "limits": _limits(name),
        "signing_keys": [
            {"kind": "user_scope", "key": signing_keys[role], "role": role, "template": RIGHTS[role]}
            for role in roles
        ],
        "exports": list(_EXPORTS[name]),
        "imports": _imports(name, keys),
    }
    if revoked:
        body["revocations"] = dict(revoked)
    return _claims(keys[name], operator_key, name, iat, body)


def user(name: str, key: str, *, account_key: str, signing_key: str, iat: int) -> Claims:
    """The claims of one who carries a role: all its rights are in the signing key's template."""
    return _claims(key, signing_key, name, iat, {"type": "user", "issuer_account": account_key})


def system_user(key: str, *, account_key: str, iat: int) -> Claims:
    """The claims of one who may tell servers of changed accounts, and nothing else; signed by the system account itself."""
    rights = {"pub": {"allow": ["$SYS.REQ.CLAIMS.UPDATE"]}, "sub": {"allow": ["_INBOX.>"]}, **_OPEN}
    return _claims(key, account_key, "keys", iat, {"type": "user", **rights})


def encode(claims: Claims, sign: Sign) -> str:
    """The claims as a JWT in NATS's own dialect (ed25519 keys of nkeys)."""
    body = dict(claims)
    digest = hashlib.new("sha512_256", msgspec.json.encode(body)).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    head = _b64(msgspec.json.encode({"typ": "JWT", "alg": "ed25519-nkey"}))
    signed = f"{head}.{_b64(msgspec.json.encode(body))}"
    return f"{signed}.{_b64(sign(signed.encode()))}"


def _claims(subject: str, issuer: str, name: str, iat: int, body: Claims) -> Claims:
    return {"sub": subject, "iss": issuer, "name": name, "iat": iat, "nats": {**body, "version": 2}}


def _limits(account: str) -> Claims:
    """No limits but one: only the account of the requesters has streams."""
    streams = ("mem_storage", "disk_storage", "streams", "consumer") if account == HUB else ()
    return {
        **_OPEN,
        **dict.fromkeys(("imports", "exports", "conn", "leaf"), _NO_LIMIT),
        "wildcards": True,
        **dict.fromkeys(streams, _NO_LIMIT),
    }


def _imports(account: str, keys: Mapping[str, str]) -> list[Claims]:
    """All that the account on the other side of the border offers."""
    other = _ACROSS.get(account)
    if other is None:
        return []
    return [
        {"name": each["name"], "subject": each["subject"], "account": keys[other], "type": each["type"]}
        for each in _EXPORTS[other]
    ]


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
