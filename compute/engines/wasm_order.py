"""What a WebAssembly program is told and what it finds: a run becomes a worker's order.

Knows: mounts, parameters, and which folders WASI opens. Must not know: workers, or how a run goes on.

What the program finds: folders at their targets, read-only unless they are results; a single file alone in its folder;
the environment; by HTTP, what its job and the node's owner let it reach.
"""

import errno
import os
import shutil
import stat
from pathlib import Path, PurePosixPath

from msgspec.structs import replace

from compute.engines.contract import Mount, Run
from compute.engines.wasm_reach import Way
from compute.engines.wasm_worker import Order
from protocol.errors import Invalid, NotFound
from protocol.jobs import Network
from protocol.spec.engines import WasmParams

Shown = tuple[Path, Path]
"""A file, and the path at which a program finds the same bytes."""


def order_of(run: Run[WasmParams], output: str, reach: Way | None = None) -> tuple[Order, list[Shown]]:
    """What to tell a worker, and the files to show before. `reach` is what the node's owner lets modules reach, None for
    nothing. Raises `Invalid` and `NotFound`, naming the wrong parameter.
    """
    params = run.params
    found = {mount.target: _mode(mount.source) for mount in run.mounts}
    entry = _module_path("EntryModule", params.entry_module, run.mounts, found)
    imports = [
        (PurePosixPath(name).stem, str(_module_path("ImportModules", name, run.mounts, found)))
        for name in params.import_modules
    ]
    folders, shown = _folders(run, {params.entry_module, *params.import_modules}, found)
    ports = {f"BACALHAU_PORT_{name}": str(port) for name, (port, _) in run.ports.items()}
    order = Order(
        module=str(entry),
        entrypoint=params.entrypoint or "_start",
        argv=[params.entry_module.rpartition("/")[2], *params.parameters],
        env={**run.env, **ports},
        folders=folders,
        output=output,
        imports=imports,
        memory_bytes=run.amounts.memory_bytes,
        way=way_of(run.network, reach),
    )
    return order, shown


def way_of(network: Network, reach: Way | None) -> Way | None:
    """What a run may reach of that: hosts that its job names with Network.Type HTTP, none with None."""
    kind = network.type.lower()
    if reach is None or kind == "none":
        return None
    return replace(reach, domains=network.domains) if kind == "http" else reach


def _mode(path: Path) -> int:
    """What kind of thing is there; 0 if nothing is."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return 0


def _module_path(field: str, name: str, mounts: list[Mount], modes: dict[str, int]) -> Path:
    """Where a module lies: it is named by an input's target, or by a path beneath one."""
    for mount in mounts:
        if mount.target == name:
            path, mode = mount.source, modes[name]
            break
        beneath = _beneath(mount, name)
        if beneath is not None:
            path, mode = beneath, _mode(beneath)
            break
    else:
        targets = ", ".join(mount.target for mount in mounts) or "none"
        raise Invalid(f"{field} {name!r} is not the target of an input (there are: {targets})")
    if stat.S_ISDIR(mode):
        return _only_file(path, field, name)
    if not stat.S_ISREG(mode):
        raise NotFound(f"{field} {name!r} is not among the fetched inputs", kind="Module")
    return path


def _beneath(mount: Mount, name: str) -> Path | None:
    if not PurePosixPath(name).is_relative_to(mount.target):
        return None
    inner = PurePosixPath(name).relative_to(mount.target)
    return None if ".." in inner.parts else mount.source / inner


def _only_file(folder: Path, field: str, name: str) -> Path:
    """S3 and URL inputs are folders; a module that lies alone in one is meant."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        raise Invalid(
            f"{field} {name!r} is a folder with {len(files)} files, not a module", hint="Name the file in it."
        )
    return files[0]


def _folders(
    run: Run[WasmParams], modules: set[str], modes: dict[str, int]
) -> tuple[list[tuple[str, str, bool]], list[Shown]]:
    """WASI opens folders only: each single file is shown alone in a folder that bears its parent's name."""
    files: list[Shown] = []
    folders = {
        mount.target: (str(mount.source), not mount.read_only)
        for mount in run.mounts
        if stat.S_ISDIR(modes[mount.target])
    }
    for number, mount in enumerate(run.mounts):
        if mount.target in modules or stat.S_ISDIR(modes[mount.target]):
            continue
        target = PurePosixPath(mount.target)
        parent = str(target.parent)
        shown = run.folder / "files" / parent.strip("/").replace("/", "%")
        there = folders.setdefault(parent, (str(shown), not mount.read_only))
        if there[0] != str(shown):
            raise Invalid(
                f"input {number} is a file at {mount.target}, where {parent} is an input or result folder too"
            )
        if there[1] == mount.read_only:
            # What is shown is the file itself, which others may be reading.
            raise Invalid(
                f"input {number} is a file at {mount.target}, and only some files in {parent} may be written",
                hint="Give the inputs that the module may write to a folder of their own.",
            )
        files.append((mount.source, shown / target.name))
    return [(host, inside, writable) for inside, (host, writable) in folders.items()], files


def show(files: list[Shown]) -> None:
    """Let the same bytes appear at another path: by link, or by copy across file systems."""
    for source, at in files:
        at.parent.mkdir(parents=True, exist_ok=True)
        if not at.exists():
            _link(source, at)


def _link(source: Path, at: Path) -> None:
    try:
        os.link(source, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copyfile(source, at)
