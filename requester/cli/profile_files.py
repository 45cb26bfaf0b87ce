"""Profiles: a name for each cluster that a person works with, kept in files as Bacalhau keeps them.

Knows: where the files are, what they say, and which one is selected. Must not know: commands, or when a profile counts
(`requester.cli.endpoint`).

    profiles/prod.yaml     endpoint: https://prod.example.org    (also description, timeout, auth.token, tls.insecure)
    profiles/current       a link to the one that is selected

Source of the form: Bacalhau 1.9. The folder is in that of ``--data-dir`` or ``BACALHAU_DIR``, so that Bacalhau's own files
can be used as they are, else beside the person's configuration file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from protocol.config import Config, own_file, read_file
from protocol.errors import Conflict, Denied, Invalid, NotFound
from protocol.spelling import did_you_mean, nearest
from requester.client import Endpoint

CURRENT: Final = "current"
API_PORT: Final = 1234
"""Of a requester's API, where an address names none."""
_SUFFIX: Final = ".yaml"
_FOLDER_VARIABLES: Final = ("SHOAL_DIR", "BACALHAU_DIR")
_ADDRESS_HINT: Final = "Write it like https://host, http://host:1234 or host:1234."


class Profiles:
    """The profiles in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Those that there are, in order."""
        return sorted(
            each.name.removesuffix(_SUFFIX) for each in self.folder.glob(f"[!.]*{_SUFFIX}") if each.is_file()
        )

    def file(self, name: str) -> Path:
        """Where a profile is, or would be. Raises `Invalid` for a name that no file can have."""
        if not name or name.startswith(".") or any(each in name for each in "/\\\0"):
            raise Invalid(f"{name!r} is no profile's name", hint="Use letters, digits, '_', '-' and dots.")
        return self.folder / f"{name}{_SUFFIX}"

    def read(self, name: str) -> Config:
        """What a profile says. Raises `NotFound`, and `Invalid` for a file that cannot be read."""
        file = self.file(name)
        if not file.is_file():
            meant = did_you_mean(nearest(name, self.names()))
            make = f"`shoal profile save {name} --endpoint URL` makes it."
            raise NotFound(
                f"there is no profile {name!r} in {self.folder}", hint=meant or make, kind="Profile"
            )
        return Config([read_file(file)])

    def selected(self) -> str:
        """The name of the one that is selected, or empty."""
        link = self.folder / CURRENT
        return link.readlink().name.removesuffix(_SUFFIX) if link.is_symlink() else ""

    def select(self, name: str) -> None:
        """Make this the one that is selected. Raises as `read`, and `Denied`."""
        self.read(name)
        scratch = self.folder / f".{CURRENT}.new"
        try:
            scratch.unlink(missing_ok=True)
            scratch.symlink_to(self.file(name).name)
            scratch.replace(self.folder / CURRENT)
        except OSError as error:
            raise Denied(f"{self.folder} cannot be written: {error.strerror}") from error

    def delete(self, name: str) -> None:
        """Forget a profile; if it was selected, none is. Raises as `read`, and `Denied`."""
        self.read(name)
        try:
            if self.selected() == name:
                (self.folder / CURRENT).unlink()
            self.file(name).unlink()
        except OSError as error:
            raise Denied(f"{self.folder} cannot be written: {error.strerror}") from error


def profiles_in(data_dir: str, environ: Mapping[str, str]) -> Profiles:
    """The person's profiles: below `data_dir`, else below what a variable names, else beside the configuration file."""
    given = data_dir or next((environ[name] for name in _FOLDER_VARIABLES if environ.get(name)), "")
    folder = Path(given).expanduser() if given else own_file(environ).parent
    return Profiles(folder.absolute() / "profiles")


def endpoint_of(profile: Config) -> Endpoint:
    """Where a profile leads. Raises `Invalid` with the place of what cannot be meant, `Conflict` if it says nowhere."""
    if profile.find("endpoint") is None:
        raise Conflict(
            "the profile has no endpoint", hint="Give it one: `shoal profile save NAME --endpoint URL`."
        )
    found = profile.parsed(read_address, "endpoint", default=Endpoint())
    token = profile.text("auth.token")
    return Endpoint(
        host=found.host,
        port=found.port,
        tls=found.tls,
        verify=not profile.flag("tls.insecure"),
        answer_s=profile.seconds("timeout", default=found.answer_s),
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )


def read_address(text: str) -> Endpoint:
    """An address as people write it; one without a scheme is HTTP, at the port of a requester's API. Raises `Invalid`."""
    url = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = url.port
    except ValueError:
        port = 0
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise Invalid(f"{text!r} is no requester's address", hint=_ADDRESS_HINT)
    if url.path.strip("/") or url.query or url.fragment or url.username is not None:
        raise Invalid(f"{text!r} has more than a host and a port", hint=_ADDRESS_HINT)
    tls = url.scheme == "https"
    usual = API_PORT if "://" not in text else 443 if tls else 80
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return Endpoint(host=host, port=port or usual, tls=tls)
