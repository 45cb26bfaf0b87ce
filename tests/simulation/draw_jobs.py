"""The jobs of a simulation, drawn by its seed: of every kind, and nearly all of them short.

Knows: specs, for the noop engine and the simulated drivers. Must not know: when a job is submitted, or what goes wrong.
"""

from random import Random
from typing import Any

from msgspec.structs import replace

from protocol.jobs import (
    Constraint,
    Input,
    Job,
    Resources,
    ResultPath,
    Retry,
    Spec,
    Task,
    Timeouts,
    Update,
)
from protocol.spec.engines import NoopParams


def a_job(random: Random, name: str, kind: str = "") -> Job:
    """Some job, or one of a kind. Its program says which version of the spec it came from, and where it ran."""
    kind = kind or random.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    params: dict[str, Any] = {
        "stdout": f"mark {random.getrandbits(24)}\n",
        "prints_env": ["BACALHAU_JOB_ID", "BACALHAU_PARTITION_INDEX", "BACALHAU_EXECUTION_ID"],
        "seconds": random.choice([0.0, 0.0, 0.1, 0.5, 2.0]),
    }
    task: dict[str, Any] = {"resources": Resources(cpu=random.choice(["1", "1", "2", "3"]), memory="1Mb")}
    rest: dict[str, Any] = {}
    _KINDS[kind][1](random, params, task, rest)
    if random.random() < 0.2 and "publisher" not in task:
        task["publisher"] = Spec("sim", {"Seconds": random.choice([0.0, 0.3, 1.5])})
        if random.random() < 0.5:
            task["result_paths"] = [ResultPath("out", "/out")]
            params["writes"] = {"/out/file": params["stdout"]}
    if random.random() < 0.2 and "input_sources" not in task:
        source = Spec("sim", {"Seconds": random.choice([0.0, 0.3, 1.5]), "Text": "input"})
        task["input_sources"] = [Input(source, "/in")]
    if random.random() < 0.15:
        rest["retry"] = Retry(
            attempts=random.choice([0, 1, 2, 4]),
            backoff=random.choice([0.0, 0.3]),
            causes=random.choice([[], ["program", "system", "node"], ["system"]]),
        )
    if rest.get("type") in ("service", "daemon") and random.random() < 0.5:
        rest["update"] = Update(max_parallel=random.choice([1, 2]), min_healthy=random.choice([0.0, 1.0]))
    engine = Spec(rest.pop("engine", "noop"), _spelled(params))
    return Job(
        name=name,
        priority=random.choice([0, 0, 0, 5]),
        labels={"kind": kind},
        tasks=[Task(engine=engine, **task)],
        **rest,
    )


def brief(random: Random, name: str) -> Job:
    """A job that anybody runs at once and that is over soon."""
    job = a_job(random, name, kind="small")
    job = replace(job, tasks=[replace(job.task, publisher=Spec(""), input_sources=[])])
    return lasting_s(job, random.choice([0.0, 0.2]))


def lasting(random: Random, name: str) -> Job:
    """A job that goes on until somebody stops it."""
    return replace(lasting_s(brief(random, name), 1000.0), type="service")


def lasting_s(job: Job, seconds: float) -> Job:
    """The job with a program that takes so long."""
    engine = replace(job.task.engine, params=job.task.engine.params | {"Seconds": seconds})
    return replace(job, tasks=[replace(job.task, engine=engine)])


def with_new_words(job: Job) -> Job:
    """The job with a field that the version before does not know."""
    source = Input(Spec("sim", {"Seconds": 0.1, "Text": "new"}), "/in")
    return replace(job, tasks=[replace(job.task, input_sources=[source])])


def _spelled(params: dict[str, Any]) -> dict[str, Any]:
    names = dict(zip(NoopParams.__struct_fields__, NoopParams.__struct_encode_fields__, strict=True))
    return {names[name]: value for name, value in params.items()}


Parts = dict[str, Any]


def _small(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    """One partition."""


def _several(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    rest["count"] = random.randint(2, 5)


def _long(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    params["seconds"] = random.uniform(3.0, 9.0)
    rest["count"] = random.randint(1, 2)


def _failing(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    params["exit_code"] = 3


def _ill(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    """It fails for a reason that may pass, and does not."""
    where = random.choice(["fails", "start_fails", "prepare_fails"])
    params[where] = "Unavailable.Engine"


def _lacking(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    """Something that it names is not there."""
    task["input_sources"] = [Input(Spec("sim", {"Seconds": 0.1, "Fails": "NotFound.Key"}), "/in")]


def _unpublished(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    task["publisher"] = Spec("sim", {"Seconds": 0.1, "Fails": "Unavailable.Store"})


def _slow(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    """It takes longer than it may."""
    params["seconds"] = 30.0
    params["stubborn"] = random.random() < 0.3
    which = random.choice(["execution_timeout", "total_timeout"])
    task["timeouts"] = Timeouts(**{which: random.randint(2, 5)})


def _impatient(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    """It does not wait long for a place."""
    task["timeouts"] = Timeouts(queue_timeout=random.randint(2, 6))
    rest["count"] = random.randint(2, 6)
    params["seconds"] = 2.0


def _wide(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    """It takes a whole node."""
    task["resources"] = Resources(cpu="4", memory="1Mb")


def _impossible(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    if random.random() < 0.5:
        task["resources"] = Resources(cpu="99", memory="1Mb")
    else:
        rest["constraints"] = [Constraint("name", "=", ["nowhere"])]


def _zoned(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    """It waits for a node with a label."""
    rest["constraints"] = [Constraint("zone", "=", [random.choice("ab")])]
    task["timeouts"] = Timeouts(queue_timeout=random.randint(2, 9))


def _service(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    rest["type"] = "service"
    rest["count"] = random.randint(1, 2)
    params["seconds"] = random.choice([0.5, 3.0, 1000.0])
    params["exit_code"] = random.choice([0, 0, 1])


def _daemon(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    rest["type"] = "daemon"
    rest["count"] = 0
    params["seconds"] = random.choice([1.0, 1000.0])


def _ops(random: Random, params: Parts, task: Parts, rest: Parts) -> None:
    rest["type"] = "ops"
    rest["count"] = 0


_KINDS = {
    "small": (10, _small),
    "several": (6, _several),
    "long": (4, _long),
    "failing": (2, _failing),
    "ill": (2, _ill),
    "lacking": (1, _lacking),
    "unpublished": (1, _unpublished),
    "slow": (2, _slow),
    "impatient": (2, _impatient),
    "wide": (2, _wide),
    "impossible": (1, _impossible),
    "zoned": (1, _zoned),
    "service": (2, _service),
    "daemon": (1, _daemon),
    "ops": (2, _ops),
}
