"""Specs of earlier versions: read, or refused with one clear text."""

from typing import Any

import pytest

from protocol.jobs import Input, Job, Spec, Task
from protocol.spec import SpecFaults, read_body, read_spec
from tests.protocol.spec.writing import SMALLEST, body, faults_of_text


@pytest.mark.parametrize(
    "text",
    [
        "APIVersion: V1beta2\nSpec: {Engine: Docker}\n",
        "Spec:\n  EngineSpec: {Type: docker}\n",
        '{"apiversion": "V1beta1", "Metadata": {}}',
    ],
)
def test_a_job_from_before_1_4_is_refused_as_such(text: str) -> None:
    """The forms before 1.4 get one clear answer instead of a list of unknown keys."""
    with pytest.raises(SpecFaults) as caught:
        read_spec(text, file="job.yaml")

    assert ["before Bacalhau 1.4" in fault.message for fault in caught.value.faults] == [True]
    assert "Tasks" in caught.value.hint


def older_wasm(**params: object) -> dict[str, Any]:
    """A body with a wasm engine of 1.4 to 1.7."""
    return body(task={"Engine": {"Type": "wasm", "Params": params}})


URL = {"Type": "urlDownload", "Params": {"URL": "https://x/m.wasm"}}


def test_wasm_modules_of_1_4_become_inputs() -> None:
    """EntryModule and ImportModules as objects are moved to the inputs, and named by their targets."""
    module = {"Source": URL, "Alias": "m", "Target": "/app/m.wasm"}
    data = older_wasm(
        EntryModule=module,
        EntryPoint="_start",
        Parameters=["a"],
        ImportModules=[{"source": {"type": "LOCALDIRECTORY", "params": {"sourcepath": "/lib"}}}],
        EnvironmentVariables={"A": "b"},
    )

    reading = read_body(data)

    task = reading.job.task
    assert task.engine == Spec(
        "wasm",
        {
            "EntryModule": "/app/m.wasm",
            "Entrypoint": "_start",
            "Parameters": ["a"],
            "ImportModules": ["/modules/import-0.wasm"],
        },
    )
    assert task.input_sources == [
        Input(Spec("urlDownload", {"URL": "https://x/m.wasm"}), "/app/m.wasm", "m"),
        Input(Spec("local", {"SourcePath": "/lib"}), "/modules/import-0.wasm"),
    ]
    assert task.env == {"A": "b"}
    assert len(reading.warnings) == 2


def test_an_older_module_that_is_an_input_already_is_not_moved_twice() -> None:
    """A module that stands among the inputs and in the engine is one input."""
    module = {"Source": URL, "Target": "/m.wasm"}
    data = older_wasm(EntryModule=module)
    data["Tasks"][0]["InputSources"] = [module]

    assert len(read_body(data).job.task.input_sources) == 1


def test_faults_in_an_older_module_are_told_where_it_was_written() -> None:
    """A wrong older form is refused with its own path and place."""
    text = SMALLEST.replace(
        "{Type: noop}",
        "\n      Type: wasm\n      Params:\n        EntryModule: {Source: {Typ: s3}, Target: /m}",
    )

    (fault,) = faults_of_text(text)

    assert (fault.path, fault.line, fault.column) == ("Tasks[0].Engine.Params.EntryModule.Source.Typ", 7, 32)


def test_docker_variables_of_older_clients_may_be_an_object() -> None:
    """EnvironmentVariables is a list; an object of texts is read as one."""
    params = {"Image": "a", "environmentvariables": {"A": "b", "C": "d=e"}}

    engine = read_body(body(task={"Engine": {"Type": "docker", "Params": params}})).job.task.engine

    assert engine.params["EnvironmentVariables"] == ["A=b", "C=d=e"]


def test_older_names_are_read() -> None:
    """localDirectory is local, which is no news to who typed ``file://``; the network Full is Host, which is told."""
    source = {"Type": "localDirectory", "Params": {"SourcePath": "/data", "ReadWrite": True}}
    task = {"InputSources": [{"Source": source, "Target": "/in"}], "Network": {"Type": "Full"}}

    reading = read_body(body(task=task))

    assert reading.job.task.input_sources[0].source == Spec(
        "local", {"SourcePath": "/data", "ReadWrite": True}
    )
    assert reading.job.task.network.type == "Host"
    assert reading.warnings == ["Tasks[0].Network.Type: Full is now called Host"]


def test_what_the_old_python_client_sends_is_taken() -> None:
    """The SDK's body with its empty publisher and missing fields is a job."""
    data = {
        "Name": "A Simple Docker Job",
        "Type": "batch",
        "Count": 1,
        "Tasks": [
            {
                "Name": "My Main task",
                "Engine": {
                    "Type": "docker",
                    "Params": {
                        "Image": "ubuntu:latest",
                        "Entrypoint": ["/bin/bash"],
                        "Parameters": ["-c", "echo Hello"],
                    },
                },
                "Publisher": {},
                "ResultPaths": [],
            }
        ],
    }

    assert read_body(data).job == Job(
        name="A Simple Docker Job",
        tasks=[
            Task(
                name="My Main task",
                engine=Spec(
                    "docker",
                    {
                        "Image": "ubuntu:latest",
                        "Entrypoint": ["/bin/bash"],
                        "Parameters": ["-c", "echo Hello"],
                    },
                ),
            )
        ],
    )
