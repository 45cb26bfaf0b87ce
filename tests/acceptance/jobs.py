"""Job specs as people write them, in short."""

from base64 import b64encode
from pathlib import Path
from typing import Any, Final

from deploy.programs import ROOT

Json = dict[str, Any]

MODULES: Final = ROOT / "examples" / "modules"
SMALL: Final = {"CPU": "100m", "Memory": "64Mb"}
OUTPUTS: Final = [{"Name": "outputs", "Path": "/outputs"}]


def job(task: Json, **more: Any) -> Json:
    """A batch job with one task."""
    return {"Type": "batch", "Count": 1, "Tasks": [{"Name": "main", "Resources": SMALL, **task}], **more}


def shell(image: str, script: str, **task: Any) -> Json:
    """A task that runs a shell line in a container."""
    params = {"Image": image, "Entrypoint": ["/bin/sh", "-c"], "Parameters": [script]}
    return {"Engine": {"Type": "docker", "Params": params}, **task}


def module(*words: str, **task: Any) -> Json:
    """A task that runs ``probe.wasm`` (one of the examples; the first word says what it does), brought along inline."""
    return wasm("probe.wasm", *words, **task)


def wasm(name: str, *words: str, **task: Any) -> Json:
    """A task that runs one of the examples' modules, brought along inline."""
    params = {"EntryModule": f"/module/{name}", "Parameters": list(words)}
    inputs = [inline(f"/module/{name}", MODULES / name), *task.pop("InputSources", [])]
    return {"Engine": {"Type": "wasm", "Params": params}, "InputSources": inputs, **task}


def inline(target: str, path: Path) -> Json:
    """An input that is a file's bytes."""
    data = b64encode(path.read_bytes()).decode()
    url = f"data:application/octet-stream;base64,{data}"
    return {"Target": target, "Source": {"Type": "inline", "Params": {"URL": url}}}


def publish(publisher: Json) -> Json:
    """The part of a task that keeps /outputs and publishes it."""
    return {"ResultPaths": OUTPUTS, "Publisher": publisher}


def stdout(execution: Json) -> str:
    """What an execution's program printed."""
    return str(execution["RunOutput"]["Stdout"])


class Gate:
    """A place at which programs stand until the test lets them through: a folder of the node that they look into."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        params = {"SourcePath": str(folder)}
        self.source: Json = {"Target": "/gate", "Source": {"Type": "local", "Params": params}}
        self.wait: Final = "while [ ! -e /gate/open ]; do sleep 0.05; done"
        """The shell's words for standing there."""

    def open(self) -> None:
        """Let through whoever stands there or comes later."""
        (self.folder / "open").touch()

    def holds(self, image: str, script: str = "true", **task: Any) -> Json:
        """A task that stands at the gate, then does what `script` says."""
        return shell(image, f"{self.wait}; {script}", InputSources=[self.source], **task)
