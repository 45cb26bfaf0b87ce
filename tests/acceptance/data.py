"""Objects in S3 and trees in IPFS, put and read with other people's clients: botocore, and Kubo's own command."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any, Final

from botocore.config import Config
from botocore.session import get_session

from deploy.programs import need
from deploy.servers import Kubo, S3Server

Json = dict[str, Any]

KUBO_S: Final = 60


class Bucket:
    """One bucket of the session's S3 server."""

    def __init__(self, s3: S3Server, name: str) -> None:
        self.name = name
        self.endpoint = s3.endpoint
        self.region = s3.region
        self.client: Any = get_session().create_client(
            "s3",
            endpoint_url=s3.endpoint,
            region_name=s3.region,
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def make(self) -> None:
        """Make it."""
        self.client.create_bucket(Bucket=self.name)

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def put_tree(self, prefix: str, tree: dict[str, bytes]) -> None:
        """Store each file of a tree below a prefix."""
        for path, data in tree.items():
            self.put(prefix + path, data)

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin with a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def source(self, key: str, target: str, **more: Any) -> Json:
        """An input that reads from here."""
        return {"Target": target, "Source": {"Type": "s3", "Params": self._params(key, more)}}

    def publisher(self, key: str, **more: Any) -> Json:
        """A publisher that writes here."""
        return {"Type": "s3", "Params": self._params(key, more)}

    def _params(self, key: str, more: Json) -> Json:
        return {
            "Bucket": self.name,
            "Key": key,
            "Endpoint": self.endpoint,
            "Region": self.region,
            **more,
        }

    @property
    def options(self) -> str:
        """Where it is, as the command line's flags say it."""
        return f"opt=endpoint={self.endpoint},opt=region={self.region}"


class Ipfs:
    """The session's Kubo node, through its own command."""

    def __init__(self, kubo: Kubo) -> None:
        self.kubo = kubo

    def add(self, path: Path) -> str:
        """Add a file or a folder; returns its CID."""
        return self._ipfs("add", "-Qr", "--cid-version=1", str(path)).decode().strip()

    def pinned(self) -> set[str]:
        """The CIDs that are pinned recursively, in their newest form."""
        pins = json.loads(self._ipfs("pin", "ls", "--type=recursive", "--enc=json"))
        return {self.newest(cid) for cid in pins.get("Keys") or {}}

    def unpin(self, cid: str) -> None:
        """Take a pin away; the blocks stay until the next collection."""
        self._ipfs("pin", "rm", cid)

    def newest(self, cid: str) -> str:
        """A CID in version 1."""
        return self._ipfs("cid", "format", "-v", "1", "-b", "base32", cid).decode().strip()

    def cat(self, path: str) -> bytes:
        """The bytes of ``CID`` or ``CID/path``."""
        return self._ipfs("cat", path)

    def listed(self, cid: str) -> list[str]:
        """The names in a folder."""
        return [
            line.split(maxsplit=1)[1] for line in self._ipfs("ls", "--size=false", cid).decode().splitlines()
        ]

    def source(self, cid: str, target: str) -> Json:
        """An input that reads from here."""
        return {"Target": target, "Source": {"Type": "ipfs", "Params": {"CID": cid}}}

    def _ipfs(self, *words: str) -> bytes:
        done = subprocess.run(
            [str(need("ipfs")), f"--api={self.kubo.multiaddr}", *words],
            capture_output=True,
            timeout=KUBO_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


def write_tree(folder: Path, tree: dict[str, bytes]) -> Path:
    """Write the files of a tree below a folder; returns the folder."""
    for path, data in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def read_tree(folder: Path) -> dict[str, str]:
    """The digest of each file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digests(tree: dict[str, bytes]) -> dict[str, str]:
    """What `read_tree` says of a tree that has arrived whole."""
    return {path: digest(data) for path, data in sorted(tree.items())}


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
