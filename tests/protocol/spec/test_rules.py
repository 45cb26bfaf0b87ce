"""Every rule of a job: one row for what is refused, one for what is taken and how it reads afterwards."""

from typing import Any

import pytest

from protocol.jobs import Constraint, Input, Network, Port, Resources, Spec, Timeouts
from protocol.spec import bounds, read_body
from protocol.spec.bounds import COUNT_MAX, ENV_MAX_ENTRIES, JOB_MAX_BYTES, SECONDS_MAX
from protocol.spec.engines import (
    DockerParams,
    EngineParams,
    NoopParams,
    WasmParams,
    engine_spec,
)
from tests.protocol.spec.jobs import read_engine
from tests.protocol.spec.writing import body, faults_of_body

S3 = {"Type": "s3", "Params": {"Bucket": "b"}}


def source(type: str, **params: Any) -> dict[str, Any]:
    """A task with one input."""
    return {"InputSources": [{"Source": {"Type": type, "Params": params}, "Target": "/in"}]}


def engine(type: str, **params: Any) -> dict[str, Any]:
    """A task with this engine."""
    return {"Engine": {"Type": type, "Params": params}}


def network(**members: Any) -> dict[str, Any]:
    """A task with this network."""
    return {"Network": members}


def results(*paths: dict[str, Any]) -> dict[str, Any]:
    """A task with these result paths and a publisher."""
    return {"ResultPaths": list(paths), "Publisher": {"Type": "ipfs"}}


WRONG_JOBS = [
    ({"Type": None}, "Type", "is missing"),
    ({"Type": ""}, "Type", "is missing"),
    ({"Type": "bacth"}, "Type", '"bacth" is not one of batch, ops, service, daemon'),
    ({"Type": "Batch"}, "Type", "is not one of"),
    ({"Type": 5}, "Type", "must be a text, and is a number"),
    ({"Count": -1}, "Count", "0 or more"),
    ({"Placement": {"Policy": "packs"}}, "Placement.Policy", '"packs" is not one of spread, pack'),
    ({"Update": {"MaxParallel": 0}}, "Update.MaxParallel", "between 1 and 10,000"),
    ({"Update": {"MinHealthy": -1}}, "Update.MinHealthy", "between 0 and"),
    ({"Disconnect": {"LostAfter": 1e12}}, "Disconnect.LostAfter", "between 0 and"),
    ({"Retry": {"Attempts": -1}}, "Retry.Attempts", "between 0 and 1,000"),
    ({"Retry": {"Backoff": -1}}, "Retry.Backoff", "between 0 and"),
    ({"Retry": {"Backoff": 9, "BackoffMax": 8.5}}, "Retry.BackoffMax", "8.5 is less than Backoff 9"),
    ({"Retry": {"Jitter": 1.5}}, "Retry.Jitter", "a share between 0 and 1"),
    ({"Retry": {"Causes": ["sytem"]}}, "Retry.Causes[0]", "not one of program, timeout, system, node"),
    ({"Retry": {"ExitCodes": [3, 0]}}, "Retry.ExitCodes[1]", "1 to 255"),
    ({"Retry": {"ExitCodes": ["3"]}}, "Retry.ExitCodes[0]", "without quotes"),
    ({"Retry": []}, "Retry", "must be an object, and is a list"),
    ({"Count": COUNT_MAX + 1}, "Count", "at most 10,000"),
    ({"Count": 10**18}, "Count", "at most"),
    ({"Count": 1.5}, "Count", "whole number"),
    ({"Count": "2"}, "Count", "without quotes"),
    ({"Count": True}, "Count", "is a boolean"),
    ({"Type": "ops", "Count": 2}, "Count", "cannot be more than 1 for ops jobs"),
    ({"Type": "daemon", "Count": 2}, "Count", "cannot be more than 1 for daemon jobs"),
    ({"Priority": "high"}, "Priority", "whole number"),
    ({"Priority": 2**40}, "Priority", "between"),
    ({"Name": "a\0b"}, "Name", "NUL"),
    ({"Name": "a\ud800"}, "Name", "surrogate"),
    ({"Name": "n" * 257}, "Name", "longer than 256"),
    ({"Name": True}, "Name", "put it in quotes"),
    ({"Namespace": "a\0b"}, "Namespace", "NUL"),
    ({"Namespace": {}}, "Namespace", "must be a text, and is an object"),
    ({"Namespace": "n" * 257}, "Namespace", "longer than 256"),
    ({"Labels": {"a": 1}}, "Labels.a", "must be a text"),
    ({"Labels": []}, "Labels", "must be an object, and is a list"),
    ({"Labels": {str(n): "" for n in range(1025)}}, "Labels", "more than 1024"),
    ({"Meta": {"a": None, "b": []}}, "Meta.b", "must be a text"),
    ({"Constraints": {}}, "Constraints", "must be a list"),
    ({"Constraints": [None]}, "Constraints[0]", "must be an object, and is nothing"),
    ({"Constraints": [{"Operator": "exists"}]}, "Constraints[0].Key", "is missing"),
    ({"Constraints": [{"Key": "a"}]}, "Constraints[0].Operator", "is missing"),
    (
        {"Constraints": [{"Key": "a", "Operator": "~", "Values": ["b"]}]},
        "Constraints[0].Operator",
        "not one of",
    ),
    ({"Constraints": [{"Key": "a", "Operator": "gt", "Values": ["b"]}]}, "Constraints[0]", "whole numbers"),
    ({"Constraints": [{"Key": "a", "Operator": "in"}]}, "Constraints[0]", "at least one"),
    ({"Constraints": [{"Key": "a", "Operator": "!", "Values": ["b"]}]}, "Constraints[0]", "no values"),
    ({"Constraints": [{"Key": "a", "Operator": "=", "Values": ["b", "c"]}]}, "Constraints[0]", "exactly one"),
    ({"Constraints": [{"Key": "a", "Operator": "=", "Values": [1]}]}, "Constraints[0].Values[0]", "a text"),
    ({"Constraints": [{"Key": "a", "Operator": "!"}] * 257}, "Constraints", "more than 256"),
    ({"Tasks": None}, "Tasks", "is missing"),
    ({"Tasks": []}, "Tasks", "is missing"),
    ({"Tasks": {}}, "Tasks", "must be a list, and is an object"),
    ({"Tasks": ["x"]}, "Tasks[0]", "must be an object, and is a text"),
    ({"Meta": {"a": "x" * JOB_MAX_BYTES}}, "", "larger than 192 KiB"),
]


@pytest.mark.parametrize(("members", "path", "says"), WRONG_JOBS)
def test_a_job_that_breaks_a_rule_is_refused(members: dict[str, Any], path: str, says: str) -> None:
    """Each rule of a job is told with the path of what breaks it, and nothing else is."""
    (fault,) = faults_of_body(body() | members)

    assert fault.path == path
    assert says in fault.message


WRONG_TASKS = [
    ({"Resources": {"GPUName": "A100"}}, "Resources.GPU", "a kind of GPU needs a number"),
    ({"Resources": {"GPU": "1", "GPUMemory": "lots"}}, "Resources.GPUMemory", "cannot be read as a size"),
    ({"Name": ""}, "Name", "is missing"),
    ({"Name": "  "}, "Name", "is missing"),
    ({"Name": "n" * 257}, "Name", "longer"),
    ({"Engine": None}, "Engine.Type", "is missing"),
    ({"Engine": {}}, "Engine.Type", "is missing"),
    ({"Engine": "docker"}, "Engine", "must be an object"),
    ({"Engine": {"Type": "dokcer"}}, "Engine.Type", "there is no engine"),
    (engine("docker"), "Engine.Params.Image", "is missing"),
    (engine("docker", Image=" "), "Engine.Params.Image", "is missing"),
    (engine("docker", Image="Ubuntu"), "Engine.Params.Image", "'library/Ubuntu' is not a repository's name"),
    (engine("docker", Image="a:b c"), "Engine.Params.Image", "'b c' is not a tag"),
    (engine("docker", Image=["a"]), "Engine.Params.Image", "must be a text"),
    (engine("docker", Image="a", Entrypoint="sh"), "Engine.Params.Entrypoint", "must be a list"),
    (engine("docker", Image="a", Parameters=["a", 1]), "Engine.Params.Parameters[1]", "must be a text"),
    (engine("docker", Image="a", Parameters=["a"] * 4097), "Engine.Params.Parameters", "more than 4,096"),
    (engine("docker", Image="a", WorkingDirectory="x"), "Engine.Params.WorkingDirectory", "absolute"),
    (
        engine("docker", Image="a", EnvironmentVariables=["A"]),
        "Engine.Params.EnvironmentVariables[0]",
        "KEY=value",
    ),
    (
        engine("docker", Image="a", EnvironmentVariables=["=A"]),
        "Engine.Params.EnvironmentVariables[0]",
        "KEY=value",
    ),
    (
        engine("docker", Image="a", EnvironmentVariables=["BACALHAU_X=1"]),
        "Engine.Params.EnvironmentVariables[0]",
        "system's own",
    ),
    (engine("wasm"), "Engine.Params.EntryModule", "is missing"),
    (engine("wasm", EntryModule="/m.wasm"), "Engine.Params.EntryModule", "not the Target of an input"),
    (engine("noop", ExitCode="3"), "Engine.Params.ExitCode", "whole number"),
    ({"Engine": {"Type": "noop", "Params": []}}, "Engine.Params", "must be an object"),
    ({"Publisher": {"Type": "ipsf"}}, "Publisher.Type", "there is no publisher"),
    ({"Publisher": {"Params": {"a": 1}}}, "Publisher.Type", "is missing"),
    ({"Publisher": {"Type": "s3", "Params": {"Bucket": "b"}}}, "Publisher.Params.Key", "is missing"),
    ({"Publisher": {"Type": "s3", "Params": {"Key": "k"}}}, "Publisher.Params.Bucket", "is missing"),
    ({"Env": {"lower": "x"}}, "Env.lower", "upper-case"),
    ({"Env": {"1A": "x"}}, "Env.1A", "begins with a letter"),
    ({"Env": {"_A": "x"}}, "Env._A", "begins with a letter"),
    ({"Env": {"A-B": "x"}}, "Env.A-B", "no name for a variable"),
    ({"Env": {"": "x"}}, "Env.", "no name for a variable"),
    ({"Env": {"A": ""}}, "Env.A", "has no value"),
    ({"Env": {"A": None}}, "Env.A", "has no value"),
    ({"Env": {"A": 1}}, "Env.A", "put it in quotes"),
    ({"Env": {"A": "env:"}}, "Env.A", "must name a variable"),
    ({"Env": {"BACALHAU_X": "x"}}, "Env.BACALHAU_X", "system's own"),
    ({"Env": {f"A{n}": "x" for n in range(ENV_MAX_ENTRIES + 1)}}, "Env", "more than 1024"),
    ({"Env": {"A": "x" * bounds.ENV_MAX_BYTES}}, "Env", "more than 128 KiB"),
    ({"Meta": {"a": 1}}, "Meta.a", "must be a text"),
    ({"InputSources": {}}, "InputSources", "must be a list"),
    ({"InputSources": [{"Target": "/in"}]}, "InputSources[0].Source", "is missing"),
    ({"InputSources": [{"Source": S3}]}, "InputSources[0].Target", "is missing"),
    (
        {
            "InputSources": [
                {
                    "Source": {"Type": "local", "Params": {"SourcePath": "/a"}},
                    "Target": "/a",
                    "ReadWrite": True,
                }
            ]
        },
        "InputSources[0].ReadWrite",
        "the source's Params",
    ),
    ({"InputSources": [{"Source": S3, "Target": ""}]}, "InputSources[0].Target", "is missing"),
    ({"InputSources": [{"Source": S3, "Target": "in"}]}, "InputSources[0].Target", "absolute"),
    ({"InputSources": [{"Source": S3, "Target": "/"}]}, "InputSources[0].Target", "below /"),
    ({"InputSources": [{"Source": S3, "Target": "/a/../b"}]}, "InputSources[0].Target", "below /"),
    (
        {"InputSources": [{"Source": S3, "Target": "/a"}, {"Source": S3, "Target": "/a"}]},
        "InputSources[1].Target",
        "taken",
    ),
    (
        {"InputSources": [{"Source": S3, "Target": "/a"}, {"Source": S3, "Target": "//a/"}]},
        "InputSources[1].Target",
        "taken",
    ),
    (
        {"InputSources": [{"Source": S3, "Target": f"/{n}", "Alias": "x"} for n in (1, 2)]},
        "InputSources[1].Alias",
        "taken",
    ),
    (
        {"InputSources": [{"Source": S3, "Target": f"/{n}"} for n in range(257)]},
        "InputSources",
        "more than 256",
    ),
    ({"InputSources": [{"Source": {}, "Target": "/a"}]}, "InputSources[0].Source.Type", "is missing"),
    (source("S4", Bucket="b"), "InputSources[0].Source.Type", "there is no source"),
    (source("git", URL="x"), "InputSources[0].Source.Type", "there is no source"),
    (source("ipfs"), "InputSources[0].Source.Params.CID", "is missing"),
    (source("ipfs", CID=5), "InputSources[0].Source.Params.CID", "must be a text"),
    (source("s3", Key="k"), "InputSources[0].Source.Params.Bucket", "is missing"),
    (source("s3", Bucket="s3://b/k"), "InputSources[0].Source.Params.Bucket", "a bucket's name alone"),
    (source("ipfs", CID="https://ipfs.io/ipfs/Qm"), "InputSources[0].Source.Params.CID", "must be a CID"),
    (source("urlDownload"), "InputSources[0].Source.Params.URL", "is missing"),
    (source("urlDownload", URL="ftp://x/y"), "InputSources[0].Source.Params.URL", "http://"),
    (source("urlDownload", URL="http://[x"), "InputSources[0].Source.Params.URL", "not a URL"),
    (source("urlDownload", URL="https:///x"), "InputSources[0].Source.Params.URL", "http://"),
    (source("local", SourcePath="data"), "InputSources[0].Source.Params.SourcePath", "absolute"),
    (source("local", SourcePath="./data"), "InputSources[0].Source.Params.SourcePath", "beside a spec file"),
    (source("own", Path="./data"), "InputSources[0].Source.Type", "there is no source"),
    (source("localDirectory"), "InputSources[0].Source.Params.SourcePath", "is missing"),
    (source("inline", URL="x"), "InputSources[0].Source.Params.URL", "not a data URL"),
    (source("inline", URL="data:;base64,*"), "InputSources[0].Source.Params.URL", "base64"),
    (source("inline", URL="blob:x"), "InputSources[0].Source.Params.URL", "not a blob URL"),
    (source("s3PreSigned"), "InputSources[0].Source.Params.PreSignedURL", "is missing"),
    (source("s3", Bucket="a", bucket="b"), "InputSources[0].Source.Params.bucket", "given twice"),
    (results({"Path": "/a"}), "ResultPaths[0].Name", "is missing"),
    (results({"Name": "a"}), "ResultPaths[0].Path", "is missing"),
    (results({"Name": "a", "Path": "a"}), "ResultPaths[0].Path", "absolute"),
    (results({"Name": "a", "Path": "/a"}, {"Name": "a", "Path": "/b"}), "ResultPaths[1].Name", "taken"),
    (results({"Name": "a", "Path": "/a"}, {"Name": "b", "Path": "/a/"}), "ResultPaths[1].Path", "taken"),
    (results({"Name": "..", "Path": "/a"}), "ResultPaths[0].Name", "cannot be a folder"),
    (results({"Name": "a/b", "Path": "/a"}), "ResultPaths[0].Name", "cannot be a folder"),
    (results({"Name": "exitCode", "Path": "/a"}), "ResultPaths[0].Name", "cannot be a folder"),
    (results({"Name": "a", "Path": "/in"}) | source("s3", Bucket="b"), "ResultPaths[0].Path", "taken"),
    ({"ResultPaths": [{"Name": "a", "Path": "/a"}]}, "Publisher", "is missing"),
    (
        {"ResultPaths": [{"Name": "a", "Path": "/a"}], "Publisher": {"Type": "noop"}},
        "Publisher",
        "is missing",
    ),
    ({"Resources": {"CPU": "x"}}, "Resources.CPU", "cannot be read"),
    ({"Resources": {"CPU": "50%"}}, "Resources.CPU", "percentage"),
    ({"Resources": {"CPU": -1}}, "Resources.CPU", "negative"),
    ({"Resources": {"Memory": "1xb"}}, "Resources.Memory", "unit"),
    ({"Resources": {"Disk": "-1"}}, "Resources.Disk", "negative"),
    ({"Resources": {"GPU": "0.5"}}, "Resources.GPU", "cannot be read"),
    ({"Resources": {"CPU": True}}, "Resources.CPU", "must be a text"),
    ({"Resources": []}, "Resources", "must be an object"),
    (network(Type="Open"), "Network.Type", "is not one of"),
    (network(Type=9), "Network.Type", "must be a text"),
    (network(Type="None", Domains=["a.com"]), "Network.Domains", "only has a meaning with Type HTTP"),
    (network(Type="HTTP"), "Network.Domains", "is missing"),
    (network(Type="HTTP", Domains=["a b"]), "Network.Domains[0]", "not a domain"),
    (network(Type="HTTP", Domains=["http://a.com"]), "Network.Domains[0]", "not a domain"),
    (network(Type="HTTP", Domains=["a.com"] * 1025), "Network.Domains", "more than 1024"),
    (network(Type="Default", Ports=[{"Name": "A"}]), "Network.Ports", "needs Type Host or Bridge"),
    (network(Type="Bridge", Ports=[{}]), "Network.Ports[0].Name", "is missing"),
    (network(Type="Bridge", Ports=[{"Name": "a-b"}]), "Network.Ports[0].Name", "environment variable"),
    (network(Type="Bridge", Ports=[{"Name": "A"}, {"Name": "A"}]), "Network.Ports[1].Name", "taken"),
    (network(Type="Bridge", Ports=[{"Name": "A", "Static": 80}]), "Network.Ports[0].Static", "1024"),
    (network(Type="Bridge", Ports=[{"Name": "A", "Static": 70000}]), "Network.Ports[0].Static", "65535"),
    (
        network(Type="Host", Ports=[{"Name": "A", "Static": 8080}, {"Name": "B", "Static": 8080}]),
        "Network.Ports[1].Static",
        "taken",
    ),
    (network(Type="Bridge", Ports=[{"Name": "A", "Target": 70000}]), "Network.Ports[0].Target", "65535"),
    (network(Type="Host", Ports=[{"Name": "A", "Target": 80}]), "Network.Ports[0].Target", "Bridge"),
    (
        network(Type="Host", Ports=[{"Name": "A", "HostNetwork": "::1"}]),
        "Network.Ports[0].HostNetwork",
        "Bridge",
    ),
    (
        network(Type="Bridge", Ports=[{"Name": "A", "HostNetwork": "x"}]),
        "Network.Ports[0].HostNetwork",
        "address",
    ),
    (network(Type="Bridge", Ports=[{"Name": "A", "Protocol": "udpp"}]), "Network.Ports[0].Protocol", "udp"),
    (
        network(
            Type="Host",
            Ports=[
                {"Name": name, "Static": 8080, "Protocol": each}
                for name, each in (("A", "udp"), ("B", "UDP"))
            ],
        ),
        "Network.Ports[1].Static",
        "taken",
    ),
    (network(Type="Bridge", Ports=[{"Name": f"A{n}"} for n in range(129)]), "Network.Ports", "more than 128"),
    ({"Timeouts": {"ExecutionTimeout": -1}}, "Timeouts.ExecutionTimeout", "negative"),
    ({"Timeouts": {"QueueTimeout": -1}}, "Timeouts.QueueTimeout", "negative"),
    ({"Timeouts": {"TotalTimeout": -1}}, "Timeouts.TotalTimeout", "negative"),
    ({"Timeouts": {"TotalTimeout": SECONDS_MAX + 1}}, "Timeouts.TotalTimeout", "ten years"),
    ({"Timeouts": {"TotalTimeout": "soon"}}, "Timeouts.TotalTimeout", "whole number"),
    ({"Timeouts": {"TotalTimeout": 1.5}}, "Timeouts.TotalTimeout", "whole number"),
    (
        {"Timeouts": {"TotalTimeout": 10, "ExecutionTimeout": 6, "QueueTimeout": 5}},
        "Timeouts.TotalTimeout",
        "less than ExecutionTimeout 6 and QueueTimeout 5",
    ),
]


@pytest.mark.parametrize(("task", "path", "says"), WRONG_TASKS)
def test_a_task_that_breaks_a_rule_is_refused(task: dict[str, Any], path: str, says: str) -> None:
    """Each rule of a task is told with the path of what breaks it, and nothing else is."""
    (fault,) = faults_of_body(body(task=task))

    assert fault.path == f"Tasks[0].{path}"
    assert says in fault.message


@pytest.mark.parametrize(
    ("members", "near"),
    [
        ({"Type": "bacth"}, "batch"),
        ({"Type": "Batch"}, "batch"),
        ({"Constraints": [{"Key": "a", "Operator": "no-in", "Values": ["b"]}]}, "notin"),
        (body(task={"Engine": {"Type": "dokcer"}}), "docker"),
        (body(task={"Publisher": {"Type": "ipsf"}}), "ipfs"),
        (body(task=source("S4", Bucket="b")), "s3"),
        (body(task=source("url", URL="http://x")), "urlDownload"),
        (body(task=network(Type="Brigde")), "Bridge"),
        (body(task={"Env": {"path": "x"}}), "PATH"),
        (
            body(
                task=engine("wasm", EntryModule="/m.wsam")
                | {"InputSources": [{"Source": S3, "Target": "/m.wasm"}]}
            ),
            "/m.wasm",
        ),
    ],
)
def test_a_slip_is_answered_with_what_was_probably_meant(members: dict[str, Any], near: str) -> None:
    """A wrong word of a known set comes with the nearest right one."""
    (fault,) = faults_of_body(body() | members)

    assert fault.near == near


@pytest.mark.parametrize(
    ("members", "attribute", "value"),
    [
        ({}, "name", ""),
        ({"Name": "  a "}, "name", "a"),
        ({}, "namespace", "default"),
        ({"Namespace": None}, "namespace", "default"),
        ({"Namespace": "x y/z"}, "namespace", "x y/z"),
        ({}, "priority", 0),
        ({"Priority": -3}, "priority", -3),
        ({}, "count", 1),
        ({"Count": None}, "count", 1),
        ({"Count": 0}, "count", 0),
        ({"Count": 3.0}, "count", 3),
        ({"Count": COUNT_MAX}, "count", COUNT_MAX),
        ({"Type": "service"}, "count", 1),
        ({"Type": "service", "Count": 0}, "count", 0),
        ({"Type": "ops"}, "count", 0),
        ({"Type": "ops", "Count": 1}, "count", 0),
        ({"Type": "daemon", "Count": 1}, "count", 0),
        ({}, "meta", {}),
        ({"Meta": {"a": None}}, "meta", {"a": ""}),
        ({"Labels": {"any thing": "at all"}}, "labels", {"any thing": "at all"}),
        ({"Constraints": None}, "constraints", []),
        (
            {"Constraints": [{"Key": " a ", "Operator": " IN ", "Values": ["b"]}]},
            "constraints",
            [Constraint("a", "in", ["b"])],
        ),
        (
            {"Constraints": [{"Key": "a", "Operator": "==", "Values": ["b"]}]},
            "constraints",
            [Constraint("a", "==", ["b"])],
        ),
        (
            {"Constraints": [{"Key": "a", "Operator": "!", "Values": None}]},
            "constraints",
            [Constraint("a", "!")],
        ),
    ],
)
def test_a_job_that_is_right_reads_as_its_canonical_form(
    members: dict[str, Any], attribute: str, value: Any
) -> None:
    """Defaults are filled in, and what may be written in several ways reads as one."""
    assert getattr(read_body(body() | members).job, attribute) == value


@pytest.mark.parametrize(
    ("task", "attribute", "value"),
    [
        ({"Name": " a "}, "name", "a"),
        ({"Name": None}, "name", "main"),
        ({"Engine": {"Type": "NoOp"}}, "engine", Spec("noop")),
        ({"Publisher": None}, "publisher", Spec()),
        ({"Publisher": {}}, "publisher", Spec()),
        ({"Publisher": {"Type": ""}}, "publisher", Spec()),
        ({"Publisher": {"Type": "noop"}}, "publisher", Spec()),
        ({"Publisher": {"Type": "IPFS", "Params": None}}, "publisher", Spec("ipfs")),
        ({"Publisher": {"Type": "s3Managed"}}, "publisher", Spec("s3managed")),
        (
            {
                "Publisher": {
                    "Type": "S3",
                    "Params": {"bucket": "b", "KEY": "k", "region": "r", "Endpoint": None},
                }
            },
            "publisher",
            Spec("s3", {"Bucket": "b", "Key": "k", "region": "r"}),
        ),
        ({"Env": {"A": "x", "B_1": "env:HOME"}}, "env", {"A": "x", "B_1": "env:HOME"}),
        ({"Env": None}, "env", {}),
        (source("IPFS", cid="Qm"), "input_sources", [Input(Spec("ipfs", {"CID": "Qm"}), "/in")]),
        (
            source("URLDOWNLOAD", url="http://x"),
            "input_sources",
            [Input(Spec("urlDownload", {"URL": "http://x"}), "/in")],
        ),
        (
            {"InputSources": [{"Source": S3, "Target": "/in", "Alias": "x"}]},
            "input_sources",
            [Input(Spec("s3", {"Bucket": "b"}), "/in", "x")],
        ),
        (
            {"Resources": {"CPU": 2, "GPU": 1, "Memory": 1e9}},
            "resources",
            Resources("2", "1000000000", "", "1"),
        ),
        ({"Resources": {"CPU": 0.5, "Memory": " 1Gi "}}, "resources", Resources("0.5", "1Gi")),
        ({"Resources": None}, "resources", Resources()),
        ({}, "network", Network()),
        (network(Type=""), "network", Network()),
        (network(Type="none"), "network", Network("None")),
        (network(Type=1), "network", Network("None")),
        (network(Type=3), "network", Network("Host")),
        (network(Type=5), "network", Network("Bridge")),
        (network(Type="full"), "network", Network("Host")),
        (
            network(Type="HTTP", Domains=["A.com", "a.com", "b.com"]),
            "network",
            Network("HTTP", ["a.com", "b.com"]),
        ),
        (
            network(
                Type="HTTP", Domains=["a.x.com", ".x.com", "x.com", ".y.x.com", "y.com", "1.2.3.4", "::1"]
            ),
            "network",
            Network("HTTP", [".x.com", "y.com", "1.2.3.4", "::1"]),
        ),
        (
            network(
                Type="Bridge",
                Ports=[{"Name": "WEB", "Static": 8080, "Target": 80, "HostNetwork": "127.0.0.1"}],
            ),
            "network",
            Network("Bridge", ports=[Port("WEB", 8080, 80, "127.0.0.1")]),
        ),
        (
            network(
                Type="Bridge",
                Ports=[
                    {"Name": "dns", "Static": 5353, "Protocol": "UDP"},
                    {"Name": "dns_tcp", "Static": 5353, "Protocol": ""},
                ],
            ),
            "network",
            Network("Bridge", ports=[Port("dns", 5353, protocol="udp"), Port("dns_tcp", 5353)]),
        ),
        (network(Type="Full", Ports=[{"Name": "web"}]), "network", Network("Host", ports=[Port("web")])),
        ({"Timeouts": {"TotalTimeout": "5m", "QueueTimeout": 60}}, "timeouts", Timeouts(0, 60, 300)),
        ({"Timeouts": {"ExecutionTimeout": 10, "TotalTimeout": 0}}, "timeouts", Timeouts(10)),
        (
            {"Timeouts": {"ExecutionTimeout": 6, "QueueTimeout": 4, "TotalTimeout": 10}},
            "timeouts",
            Timeouts(6, 4, 10),
        ),
    ],
)
def test_a_task_that_is_right_reads_as_its_canonical_form(
    task: dict[str, Any], attribute: str, value: Any
) -> None:
    """Defaults are filled in, and what may be written in several ways reads as one."""
    assert getattr(read_body(body(task=task)).job.task, attribute) == value


@pytest.mark.parametrize(
    ("written", "params"),
    [
        (
            {
                "Type": "docker",
                "Params": {
                    "image": "ubuntu",
                    "ENTRYPOINT": ["/bin/sh"],
                    "Parameters": ["-c", "x"],
                    "EnvironmentVariables": ["a=b=c"],
                    "workingdirectory": "/w",
                },
            },
            DockerParams("ubuntu", ["/bin/sh"], ["-c", "x"], ["a=b=c"], "/w"),
        ),
        (
            {
                "Type": "Docker",
                "Params": {
                    "Image": "ubuntu",
                    "Entrypoint": None,
                    "Parameters": None,
                    "EnvironmentVariables": None,
                    "WorkingDirectory": "",
                },
            },
            DockerParams("ubuntu"),
        ),
        (
            {"Type": "noop", "Params": {"exitcode": 3, "Writes": {"/a": "b"}}},
            NoopParams(exit_code=3, writes={"/a": "b"}),
        ),
    ],
)
def test_engine_parameters_are_read_in_any_case_and_kept_in_one(
    written: dict[str, Any], params: EngineParams
) -> None:
    """What a person wrote of an engine is what the engine reads; empty and null parameters say nothing."""
    engine = read_body(body(task={"Engine": written})).job.task.engine

    assert read_engine(engine) == params
    assert engine == engine_spec(engine.type, params)
    assert None not in engine.params.values()


def test_a_wasm_program_and_its_imports_are_inputs() -> None:
    """EntryModule and ImportModules name targets of inputs."""
    inputs = [{"Source": S3, "Target": target} for target in ("/m.wasm", "/lib.wasm")]
    params = {
        "EntryModule": "/m.wasm",
        "EntryPoint": "main",
        "Parameters": ["a"],
        "ImportModules": ["/lib.wasm"],
    }

    job = read_body(body(task={"Engine": {"Type": "wasm", "Params": params}, "InputSources": inputs})).job

    assert read_engine(job.task.engine) == WasmParams("/m.wasm", "main", ["a"], ["/lib.wasm"])


@pytest.mark.parametrize("module", ["/in", "/in/m.wasm", "/in/sub/m.wasm"])
def test_a_wasm_module_may_lie_in_an_input(module: str) -> None:
    """An input that is a folder holds the module below its target."""
    task = source("s3", Bucket="b", Key="m.wasm") | engine("wasm", EntryModule=module)

    assert read_body(body(task=task)).job.task.engine.params == {"EntryModule": module}


def test_values_of_variables_never_appear_in_a_fault() -> None:
    """A fault about Env names the variable and not its value, which may be secret."""
    (fault,) = faults_of_body(body(task={"Env": {"bad-name": "hunter2"}}))

    assert "hunter2" not in fault.message


def test_large_inline_data_is_not_counted_against_the_jobs_size() -> None:
    """Megabytes of inline data are taken; they are moved out of the job before it is stored."""
    url = "data:application/octet-stream;base64," + "A" * 5_000_000

    job = read_body(body(task=source("inline", URL=url))).job

    assert job.task.input_sources[0].source.params["URL"] == url


def test_a_module_is_named_from_the_root_or_without_its_slash() -> None:
    """Bacalhau finds ``main.wasm`` at the target ``/main.wasm``; the canonical job has the target."""
    task = source("s3", Bucket="b", Key="m.wasm") | engine("wasm", EntryModule="in", ImportModules=["in"])
    params = read_body(body(task=task)).job.task.engine.params
    assert params == {"EntryModule": "/in", "ImportModules": ["/in"]}


def test_paths_of_a_wasm_program_are_from_the_root_with_or_without_their_slash() -> None:
    """What Bacalhau's ``wasm run main.wasm`` sends is a job: a WebAssembly program has no folder that it works in."""
    task = engine("wasm", EntryModule="main.wasm") | {
        "InputSources": [{"Source": S3, "Target": "main.wasm"}, {"Source": S3, "Target": "in/a"}],
        "ResultPaths": [{"Name": "out", "Path": "out"}],
        "Publisher": {"Type": "local"},
    }

    read = read_body(body(task=task)).job.task

    assert [each.target for each in read.input_sources] == ["/main.wasm", "/in/a"]
    assert [each.path for each in read.result_paths] == ["/out"]
    assert read.engine.params == {"EntryModule": "/main.wasm"}


@pytest.mark.parametrize("place", ["", ".", "../up", "m.wasm"])
def test_a_wasm_programs_path_is_one_of_its_own(place: str) -> None:
    """A path without its slash is checked as one with it is: it is not missing, leads nowhere else and is taken once."""
    task = engine("wasm", EntryModule="m.wasm") | {
        "InputSources": [{"Source": S3, "Target": "/m.wasm"}, {"Source": S3, "Target": place}]
    }

    (fault,) = faults_of_body(body(task=task))

    assert "InputSources[1].Target" in fault.message
