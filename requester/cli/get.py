"""``shoal get JOB``: bring a job's published results home, with the same drivers that nodes fetch inputs with.

Knows: which driver reads which result, and where results are put. Must not know: how a driver works.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from protocol.errors import Conflict, Invalid, TimedOut
from protocol.ids import short
from protocol.jobs import Spec
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, tell
from requester.cli.jobs import Namespace
from requester.cli.merge import merge
from requester.cli.output import size
from requester.client import JOBS, Client
from storage.contract import Drivers, Share
from storage.params import read_params

ARCHIVE_END = ".tar.gz"


def get(
    job: Annotated[str, Parameter(help="The job's name, id or the beginning of its id.")],
    /,
    *,
    output_dir: Annotated[
        Path | None, Parameter(help="Where to put the results; default ./job-<id>.")
    ] = None,
    raw: Annotated[bool, Parameter(help="Keep one folder per execution instead of merging them.")] = False,
    download_timeout_secs: Annotated[float, Parameter(help="Give up after so long; 0: no limit.")] = 0,
    ipfs_connect: Annotated[
        str, Parameter(help="Multiaddress of the Kubo RPC API to read IPFS results from.")
    ] = "",
    namespace: Namespace = "",
    api: Api = Api(),
) -> int:
    """Download a job's results."""
    try:
        with api.client() as client:
            record = client.job(job, namespace=namespace)["Job"]
            found = (
                client.call("GET", f"{JOBS}/{record['ID']}/results", namespace=record["Namespace"])["Items"]
                or []
            )
            results = [Spec(type=item["Type"], params=item.get("Params") or {}) for item in found]
            if not results:
                return _nothing(record, client)
        folder = output_dir or Path(f"job-{_folder_name(record)}")
        tell(f"Fetching results of job '{job}'...")
        limit = download_timeout_secs or None
        asyncio.run(_fetch_all(results, folder, raw=raw, limit_s=limit, ipfs_connect=ipfs_connect))
    except KeyboardInterrupt:
        tell()
        return Exit.INTERRUPTED
    print(f"Results for job '{job}' have been written to...\n{folder.resolve()}")
    return Exit.OK


def _nothing(record: dict[str, Any], client: Client) -> int:
    state = record["State"]["StateType"]
    tell(f"No results found for job {record['ID']} ({state}).")
    if not record["Tasks"][0]["Publisher"].get("Type"):
        tell("Hint: the job has no publisher; what the program printed is in: shoal job logs " + record["ID"])
    elif state not in ("Completed", "Failed", "Stopped"):
        tell("Hint: the job is not closed yet; wait with: shoal job describe " + record["ID"])
    return Exit.OK


def _folder_name(record: dict[str, Any]) -> str:
    # A name is free text; only one that is a plain file name may become one.
    name = str(record["Name"])
    plain = name != record["ID"] and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 64
    return name if plain and record["Namespace"] == "default" else short(record["ID"])


async def _fetch_all(
    results: list[Spec], folder: Path, *, raw: bool, limit_s: float | None, ipfs_connect: str
) -> None:
    """Fetch beside the folder, then put everything there at once: a failed download leaves no half of it."""
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(
            f"{folder} is there already and not empty", hint="name another folder with --output-dir"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    from storage.drivers import open_drivers
    from storage.settings import StorageSettings

    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        settings = StorageSettings(
            folder=Path(scratch) / "drivers",
            ipfs_connect=ipfs_connect or _variable("NODE_IPFS_CONNECT") or "/ip4/127.0.0.1/tcp/5001",
        )
        try:
            async with asyncio.timeout(limit_s), open_drivers(settings) as drivers:
                fetched = [
                    await _fetch(drivers, result, Path(scratch) / str(number))
                    for number, result in enumerate(results)
                ]
        except TimeoutError as error:
            raise TimedOut(f"the results did not arrive within {limit_s:g} s") from error
        await asyncio.to_thread(_put, fetched, folder, raw=raw)


async def _fetch(drivers: Drivers, result: Spec, into: Path) -> Path:
    """One execution's result, unpacked: a folder."""
    driver = drivers.sources.get(result.type.lower())
    if driver is None:
        known = ", ".join(sorted(drivers.sources))
        raise Invalid(
            f"results of type {result.type!r} cannot be downloaded by this version (it knows {known})"
        )
    into.mkdir()
    params = read_params(result.params, driver.params, f"result {result.type}")
    resolved = await driver.resolve(params, Share())
    bar = _Bar(f"{result.type} {resolved.identity}", resolved.size_bytes)
    fetched = await driver.fetch(params, resolved, into / "got", bar)
    bar.end()
    archives = [fetched.path] if fetched.path.is_file() else list(fetched.path.iterdir())
    if len(archives) == 1 and archives[0].is_file() and archives[0].name.endswith((ARCHIVE_END, "got")):
        from storage.archive import unpack

        await unpack(archives[0], into / "tree", lambda done, total: None)
        return into / "tree"
    return fetched.path


def _put(fetched: list[Path], folder: Path, *, raw: bool) -> None:
    folder.mkdir(exist_ok=True)
    if not raw:
        merge(fetched, folder)
        return
    for number, tree in enumerate(fetched):
        os.rename(tree, folder / f"{number}")


def _variable(name: str) -> str:
    return os.environ.get(f"SHOAL_{name}") or os.environ.get(f"BACALHAU_{name}") or ""


class _Bar:
    """How far a download is, on a terminal."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what if len(what) <= 60 else what[:57] + "..."
        self._total = total
        self._shown = sys.stderr.isatty()

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        if self._shown:
            total = total_bytes or self._total
            share = f"{size(done_bytes)} of {size(total)}" if total else size(done_bytes)
            print(f"\r\x1b[K{self._what}: {share}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
