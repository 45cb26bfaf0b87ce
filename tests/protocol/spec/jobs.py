"""Canonical jobs of every kind, for laws."""

from hypothesis import strategies as st
from msgspec import UNSET, convert

from protocol.jobs import (
    EVERYWHERE,
    Constraint,
    Disconnect,
    Input,
    Job,
    Network,
    Placement,
    Port,
    Resources,
    ResultPath,
    Retry,
    Spec,
    Task,
    Timeouts,
    Update,
)
from protocol.spec import engines
from protocol.spec.engines import DockerParams, EngineParams, NoopParams, WasmParams, engine_spec
from protocol.spec.job_rules import SYSTEM_META, TYPES

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(CHARACTERS, max_size=8)
WORDS = st.text(CHARACTERS, min_size=1, max_size=8).filter(lambda text: text == text.strip() != "")
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", fullmatch=True)
PARTS = st.from_regex(r"[a-zA-Z0-9_]{1,8}", fullmatch=True)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)

SOURCES = st.one_of(
    st.builds(lambda cid: Spec("ipfs", {"CID": cid}), WORDS),
    st.builds(
        lambda bucket, more: Spec("s3", {"Bucket": bucket, "Partition": more}),
        WORDS,
        st.dictionaries(NAMES, VALUES, max_size=2),
    ),
    st.builds(lambda path: Spec("urlDownload", {"URL": f"https://host/{path}"}), NAMES),
    st.builds(
        lambda path, write: Spec("local", {"SourcePath": f"/{path}", "ReadWrite": write}),
        NAMES,
        st.booleans(),
    ),
    st.builds(
        lambda data: Spec("inline", {"URL": f"data:text/plain;base64,{data}"}),
        st.sampled_from(["", "aGk=", "aGk"]),
    ),
    st.builds(lambda digest: Spec("inline", {"URL": f"blob:sha256:{digest};text/plain;size=5"}), DIGESTS),
)
PUBLISHERS = st.sampled_from(
    [
        Spec("ipfs"),
        Spec("local"),
        Spec("s3managed"),
        Spec("s3", {"Bucket": "b", "Key": "k/{jobID}", "Encoding": "plain"}),
    ]
)
CONSTRAINTS = st.one_of(
    st.builds(Constraint, NAMES, st.sampled_from(["=", "==", "!="]), st.lists(NAMES, min_size=1, max_size=1)),
    st.builds(Constraint, NAMES, st.sampled_from(["in", "notin"]), st.lists(NAMES, min_size=1, max_size=3)),
    st.builds(Constraint, NAMES, st.sampled_from(["exists", "!"])),
    st.builds(
        Constraint, NAMES, st.sampled_from(["gt", "lt"]), st.integers(-9, 9).map(lambda number: [str(number)])
    ),
)
PORTS = st.lists(
    st.builds(
        Port, st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), target=st.integers(0, 65_535)
    ),
    max_size=2,
    unique_by=lambda port: port.name,
)
NETWORKS = st.one_of(
    st.sampled_from([Network(), Network("None"), Network("Host"), Network("Bridge")]),
    st.builds(lambda ports: Network("Bridge", ports=ports), PORTS),
    st.sampled_from([Network("HTTP", ["a.com"]), Network("HTTP", [".x.org", "y.x.com", "10.0.0.1"])]),
)
TIMEOUTS = st.one_of(
    st.builds(Timeouts, st.integers(0, 10**6), st.integers(0, 10**6)),
    st.builds(Timeouts, st.integers(0, 100), st.integers(0, 100), st.integers(200, 10**6)),
)
RETRIES = st.builds(
    Retry,
    attempts=st.integers(0, 1_000),
    backoff=st.sampled_from([0.0, 0.5, 2.0]),
    backoff_max=st.sampled_from([0.0, 2.0, 60.0]),
    jitter=st.floats(0, 1),
    causes=st.lists(st.sampled_from(["program", "timeout", "system", "node"]), max_size=4, unique=True).map(
        lambda causes: ["program", *(cause for cause in causes if cause != "program")]
    ),
    exit_codes=st.lists(st.integers(1, 255), max_size=3),
)
ENVS = st.dictionaries(
    st.from_regex(r"[A-Z][A-Z0-9_]{0,5}", fullmatch=True),
    st.text(CHARACTERS, min_size=1, max_size=8),
    max_size=3,
).map(lambda env: {name: value for name, value in env.items() if not value.startswith("env:")})
RESOURCES = st.builds(
    Resources,
    cpu=st.sampled_from(["", "500m", "2", "0.5"]),
    memory=st.sampled_from(["", "512Mb", "1Gi"]),
    disk=st.sampled_from(["", "10GB"]),
    gpu=st.sampled_from(["", "0", "2"]),
) | st.builds(
    Resources,
    gpu=st.just("1"),
    gpu_name=st.sampled_from([UNSET, "A100"]),
    gpu_memory=st.sampled_from([UNSET, "16Gi"]),
)
ENGINES = st.one_of(
    st.builds(
        DockerParams,
        image=st.from_regex(
            r"(ghcr\.io/)?[a-z0-9]{1,8}(/[a-z0-9]{1,8})?(:[a-zA-Z0-9][a-z0-9.]{0,7})?", fullmatch=True
        ),
        entrypoint=st.lists(TEXTS, max_size=2),
        parameters=st.lists(TEXTS, max_size=3),
        environment_variables=st.lists(st.builds("{}={}".format, PARTS, TEXTS), max_size=2).map(
            lambda texts: [text for text in texts if not text.upper().startswith("BACALHAU_")]
        ),
        working_directory=st.sampled_from(["", "/w"]),
    ).map(lambda params: engine_spec("docker", params)),
    st.builds(NoopParams, exit_code=st.integers(0, 255), stdout=TEXTS, seconds=st.floats(0, 10)).map(
        lambda params: engine_spec("noop", params)
    ),
)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Tasks in canonical form."""
    targets = draw(st.lists(PARTS, max_size=4, unique=True))
    inputs = [
        Input(draw(SOURCES), f"/in/{target}", draw(st.sampled_from(["", f"alias {target}"])))
        for target in targets
    ]
    engine = draw(ENGINES)
    modules = [each.target for each in inputs]
    if modules and draw(st.sampled_from([True, False])):
        params = WasmParams(modules[0], draw(TEXTS), draw(st.lists(TEXTS, max_size=2)), modules[1:])
        engine = engine_spec("wasm", params)
    names = [
        name
        for name in draw(st.lists(NAMES, max_size=3, unique=True))
        if name not in ("stdout", "stderr", "exitCode")
    ]
    return Task(
        name=draw(WORDS),
        engine=engine,
        publisher=draw(PUBLISHERS if names else PUBLISHERS | st.just(Spec())),
        env=draw(ENVS),
        meta=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        input_sources=inputs,
        result_paths=[ResultPath(name, f"/out/{index}") for index, name in enumerate(names)],
        resources=draw(RESOURCES),
        network=draw(NETWORKS),
        timeouts=draw(TIMEOUTS),
    )


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Jobs in canonical form."""
    kind = draw(st.sampled_from(TYPES))
    return Job(
        name=draw(st.just("") | WORDS),
        namespace=draw(WORDS),
        type=kind,
        priority=draw(st.integers(-1000, 1000)),
        count=0 if kind in EVERYWHERE else draw(st.integers(0, 10_000)),
        constraints=draw(st.lists(CONSTRAINTS, max_size=3)),
        meta={
            key: value
            for key, value in draw(st.dictionaries(TEXTS, TEXTS, max_size=2)).items()
            if not key.startswith(SYSTEM_META)
        },
        labels=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        tasks=[draw(tasks())],
        retry=draw(st.just(UNSET) | RETRIES),
        update=draw(st.just(UNSET) | st.builds(Update, st.integers(1, 9), st.floats(0, 60))),
        disconnect=draw(st.just(UNSET) | st.builds(Disconnect, st.floats(0, 3_600))),
        placement=draw(st.just(UNSET) | st.sampled_from([Placement(), Placement("pack")])),
    )


def read_engine(engine: Spec) -> EngineParams:
    """The parameters of a canonical job's engine."""
    return convert(engine.params, engines.ENGINES[engine.type])
