"""``shoal profile …``: save, list, show, select and delete the clusters that a person works with.

Knows: what Bacalhau's commands of these names take and print. Must not know: how profiles are kept
(`requester.cli.profile_files`).
"""

import os
import sys
from typing import Annotated, Any, Final

from cyclopts import Parameter

from protocol.errors import Invalid, NotFound
from protocol.spec.quantities import parse_duration_s
from requester.cli.exits import Exit
from requester.cli.output import ListFormat, print_list
from requester.cli.profile_files import Profiles, profiles_in, read_address
from requester.cli.settings import write_settings

Name = Annotated[str, Parameter(name="NAME", help="The profile's name.")]
DataDir = Annotated[str, Parameter(help="The folder that has the profiles (BACALHAU_DIR).")]
SELECTORS: Final = ("SHOAL_PROFILE", "BACALHAU_PROFILE")
_SHOWN_LEAST: Final = 8
"""Of a token that has no more characters than this none is shown."""


def save(
    name: Name,
    /,
    *,
    endpoint: Annotated[str, Parameter(help="Where the requester's API is: a URL, or HOST:PORT.")] = "",
    description: Annotated[str, Parameter(help="What it is for.")] = "",
    timeout: Annotated[str, Parameter(help="How long an answer may take: 30s, 1m.")] = "",
    insecure: Annotated[bool, Parameter(help="Take any certificate for the server's.")] = False,
    select: Annotated[bool, Parameter(help="Select it, too.")] = False,
    data_dir: DataDir = "",
) -> int:
    """Make a profile, or change one; what is not given stays as it is."""
    profiles = profiles_in(data_dir, os.environ)
    if not endpoint and name not in profiles.names():
        raise Invalid(f"the profile {name!r} would lead nowhere", hint="Give it an address with --endpoint.")
    given: dict[str, Any] = {"endpoint": endpoint, "description": description, "timeout": timeout}
    if insecure:
        given["tls.insecure"] = True
    if endpoint:
        read_address(endpoint)
    if timeout:
        parse_duration_s(timeout)
    write_settings(profiles.file(name), {key: value for key, value in given.items() if value})
    print(f'Profile "{name}" saved')
    return _select(profiles, name) if select else Exit.OK


def list_profiles(*, how: ListFormat = ListFormat(), data_dir: DataDir = "") -> int:
    """List profiles; the one that is selected has a star."""
    profiles = profiles_in(data_dir, os.environ)
    selected = profiles.selected()
    rows = [
        {
            "current": "*" if name == selected else "",
            "name": name,
            "endpoint": (said := profiles.read(name)).text("endpoint"),
            "auth": "token" if said.text("auth.token") else "",
        }
        for name in profiles.names()
    ]
    if not rows and how.output == "table":
        print("No profiles found")
        return Exit.OK
    print_list(
        rows,
        [
            ("CURRENT", lambda each: each["current"]),
            ("NAME", lambda each: each["name"]),
            ("ENDPOINT", lambda each: each["endpoint"]),
            ("AUTH", lambda each: each["auth"]),
        ],
        how,
    )
    return Exit.OK


def show(
    name: Name = "",
    /,
    *,
    show_token: Annotated[bool, Parameter(help="The whole token, not only its ends.")] = False,
    data_dir: DataDir = "",
) -> int:
    """Show a profile: that of the name, or the one that is selected."""
    profiles = profiles_in(data_dir, os.environ)
    selected = profiles.selected()
    name = name or next((found for each in SELECTORS if (found := os.environ.get(each))), selected)
    if not name:
        raise NotFound("no profile is selected", hint="Name one, or select one: `shoal profile select NAME`.")
    said = profiles.read(name)
    token = said.text("auth.token")
    auth = f"token ({token if show_token else _redacted(token)})" if token else "none"
    print(f"Name:        {name}{' (current)' if name == selected else ''}")
    print(f"Endpoint:    {said.text('endpoint')}")
    print(f"Auth:        {auth}")
    print(f"TLS:         {'insecure' if said.flag('tls.insecure') else 'secure'}")
    print(f"Timeout:     {said.text('timeout', default='35s')}")
    if description := said.text("description"):
        print(f"Description: {description}")
    return Exit.OK


def select(name: Name, /, *, data_dir: DataDir = "") -> int:
    """Select a profile: commands go to its cluster from now on."""
    return _select(profiles_in(data_dir, os.environ), name)


def delete(
    name: Name,
    /,
    *,
    force: Annotated[bool, Parameter(alias="-f", help="Do not ask about the one that is selected.")] = False,
    data_dir: DataDir = "",
) -> int:
    """Delete a profile."""
    profiles = profiles_in(data_dir, os.environ)
    profiles.read(name)
    if name == profiles.selected() and not force:
        print(f'Profile "{name}" is the current profile. Delete anyway? [y/N]: ', end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("Deletion cancelled")
            return Exit.OK
    profiles.delete(name)
    print(f'Profile "{name}" deleted')
    return Exit.OK


def _select(profiles: Profiles, name: str) -> int:
    profiles.select(name)
    print(f'Switched to profile "{name}"')
    return Exit.OK


def _redacted(token: str) -> str:
    return f"{token[:4]}****{token[-4:]}" if len(token) > _SHOWN_LEAST else "****"
