"""What happens in one simulation, drawn from its seed before it begins: who is there, what people ask, what goes wrong.

Knows: plain data. Must not know: how anything is carried out. Every seed draws its own mix: many have few faults of one kind
(nearly all known faults of real systems need no more), some have everything at once.
"""

from random import Random
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from protocol import failpoints
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


class Action(Struct, frozen=True):
    """Something that a person does or that goes wrong, at `at` seconds. `who` is a process where that matters."""

    at: float
    what: str
    who: str = ""
    seconds: float = 0.0
    number: float = 0.0
    text: str = ""
    job: Job | None = None


class Scenario(Struct):
    """Everything that one seed decides beforehand."""

    seed: int
    requesters: int
    nodes: int
    latency_s: tuple[float, float]
    chaos_s: float
    keep_s: float = 0.0
    """How long closed jobs stay in the log, 0 for ever. Some are away for longer."""
    manual: bool = False
    """Whether people approve each node."""
    forget_s: float = 0.0
    """How long nodes are remembered that are away, 0 for longer than the story."""
    older: list[str] = field(default_factory=list)
    """The processes that are of the version before this one."""
    actions: list[Action] = field(default_factory=list)


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    random = Random(f"scenario {seed}")
    latency = random.choice([(0.0002, 0.002), (0.0002, 0.002), (0.001, 0.05), (0.02, 0.4)])
    scenario = Scenario(
        seed=seed,
        requesters=random.choice([1, 1, 2, 2, 2, 2, 3, 3, 5]),
        nodes=random.choice([1, 2, 2, 3, 3]),
        latency_s=latency,
        chaos_s=random.uniform(6.0, 14.0),
        keep_s=random.choice([0.0, 0.0, random.uniform(2.0, 6.0)]),
    )
    scenario.actions = sorted(
        [*_people(random, scenario), *_faults(random, scenario), *_absence(random, scenario)],
        key=lambda action: action.at,
    )
    if random.random() < 0.08:
        everybody = [*_names("r", scenario.requesters), *_names("n", scenario.nodes)]
        scenario.older = random.sample(everybody, random.randint(1, len(everybody) - 1))
        _upgrade(random, scenario)
    if random.random() < 0.1:
        _forgetful(random, scenario)
    return scenario


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}{number}" for number in range(1, count + 1)]


# People


def _people(random: Random, scenario: Scenario) -> list[Action]:
    actions: list[Action] = []
    for number in range(random.randint(3, 9)):
        begin = random.uniform(0.5, scenario.chaos_s)
        if random.random() < 0.25:
            begin = 1.0
        job = a_job(random, f"job-{number}", scenario)
        actions.append(Action(begin, "submit", job=job))
        draw = random.random()
        if draw < 0.2:
            actions.append(Action(begin + random.uniform(0.0, 5.0), "stop", text=job.name))
        elif draw < 0.35:
            again = a_job(random, job.name, scenario)
            actions.append(Action(begin + random.uniform(0.0, 6.0), "submit", job=again))
        elif draw < 0.45:
            actions.append(Action(begin + random.uniform(0.0, 0.05), "submit", job=job))
        if random.random() < 0.3:
            actions.append(Action(begin + random.uniform(0.0, 2.0), "watch", text=job.name))
        if random.random() < 0.15:
            actions.append(Action(begin + random.uniform(0.0, 6.0), "look", text=job.name))
        if random.random() < 0.08:
            actions.append(Action(begin + random.uniform(1.0, 8.0), "rerun", text=job.name))
        if random.random() < 0.08:
            actions.append(Action(begin + random.uniform(1.0, 10.0), "delete", text=job.name))
    for number in range(random.choice([0, 0, 0, 1, 1, 2])):
        actions += _about_a_node(random, scenario, f"there-{number}")
    if random.random() < 0.06:
        scenario.manual = True
        for node in _names("n", scenario.nodes):
            actions.append(Action(random.uniform(0.5, 4.0), "approve", text=node))
    return actions


_UNDOES = {"cordon": "uncordon", "drain": "uncordon", "reject": "approve"}


def _about_a_node(random: Random, scenario: Scenario, name: str) -> list[Action]:
    """Somebody takes a node out, for a while or until the end; often others have a word about it at the same time, and often
    a job of that name has something there that lasts.
    """
    node = random.choice(_names("n", scenario.nodes))
    at = random.uniform(1.0, scenario.chaos_s)
    if random.random() < 0.1:
        return _replaced(random, at, node)
    actions: list[Action] = []
    if random.random() < 0.6:
        job = a_job(random, name, scenario, kind=random.choice(["long", "service", "daemon"]))
        actions.append(Action(max(at - random.uniform(0.5, 2.0), 0.5), "submit", job=job))
    for what in random.choices(list(_UNDOES), k=random.choice([1, 1, 2, 3])):
        actions.append(Action(at, what, text=node, number=random.choice([0.0, 1.0, 2.0])))
        if random.random() < 0.7:
            actions.append(Action(at + random.uniform(0.0, 6.0), _UNDOES[what], text=node))
        at += random.choice([0.0, 0.0, scenario.latency_s[1], 2.0]) * random.random()
    return actions


def _replaced(random: Random, at: float, node: str) -> list[Action]:
    """A node gets another label; or it is removed, and comes back, perhaps as another machine."""
    away_s = random.uniform(0.0, 2.0)
    if random.random() < 0.5:
        return [Action(at, "relabel", node, seconds=away_s, text=random.choice("ab"))]
    after = at + random.uniform(0.1, 3.0)
    again = random.choice(["leave", "lose machine"])
    return [Action(at, "remove", text=node), Action(after, again, node, seconds=away_s)]


def a_job(random: Random, name: str, scenario: Scenario, kind: str = "") -> Job:
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


# What goes wrong


def _faults(random: Random, scenario: Scenario) -> list[Action]:
    kinds = list(_FAULTS)
    chosen = random.sample(kinds, random.choice([0, 0, 1, 1, 1, 2, 2, 3, len(kinds)]))
    if not chosen:
        return []
    requesters, nodes = _names("r", scenario.requesters), _names("n", scenario.nodes)
    actions: list[Action] = []
    only_nodes = random.random() < 0.1
    for _ in range(random.randint(1, 8)):
        who = random.choice(nodes if only_nodes else [random.choice(requesters), random.choice(nodes)])
        at = random.uniform(0.2, scenario.chaos_s)
        actions += _FAULTS[random.choice(chosen)](random, at, who, requesters, nodes)
    return actions


def _absence(random: Random, scenario: Scenario) -> list[Action]:
    """Where jobs leave the log soon, somebody is often away for longer than that, and often while jobs are submitted."""
    if not scenario.keep_s or scenario.requesters == 1 or random.random() < 0.4:
        return []
    who = f"r{random.randint(1, scenario.requesters)}"
    at, away_s = random.uniform(0.5, 4.0), scenario.keep_s + random.uniform(2.0, 8.0)
    actions = [Action(at, "cut", who, seconds=away_s, number=1.0, text="both")]
    for number in range(random.choice([0, 2, 4])):
        job = a_job(random, f"doubted-{number}", scenario, kind="small")
        begin = at - 2 * scenario.latency_s[1] * random.random()
        actions.append(Action(max(begin, 0.1), "submit", job=job))
    return actions


def _forgetful(random: Random, scenario: Scenario) -> None:
    """Nodes are forgotten soon, and one is away for about as long: killed, or cut off and at work; or for ever."""
    scenario.forget_s = random.uniform(0.2, 4.0)
    who, at = random.choice(_names("n", scenario.nodes)), random.uniform(0.5, 4.0)
    away_s = scenario.forget_s + random.uniform(6.0, 18.0)
    away = Action(at, "kill", who, seconds=away_s)
    draw = random.random()
    if draw < 0.3:
        away = Action(at, "cut", who, seconds=away_s, number=1.0, text="both")
    elif draw < 0.7:
        away = Action(at, "die", who)
    scenario.actions = sorted([*scenario.actions, away], key=lambda action: action.at)
    scenario.chaos_s = max(scenario.chaos_s, at + away_s + random.uniform(0.0, 2.0))


def _upgrade(random: Random, scenario: Scenario) -> None:
    """Some of what is of the version before is replaced while work goes on, one after the other; and somebody makes use of
    what is new.
    """
    at = random.uniform(1.0, scenario.chaos_s)
    job = a_job(random, "new-field", scenario, kind=random.choice(["small", "several", "ops", "daemon"]))
    source = Input(Spec("sim", {"Seconds": 0.1, "Text": "new"}), "/in")
    job = replace(job, tasks=[replace(job.task, input_sources=[source])])
    scenario.actions.append(Action(random.uniform(0.5, scenario.chaos_s), "submit", job=job))
    for who in scenario.older:
        if random.random() < 0.5:
            scenario.actions.append(Action(at, "upgrade", who, seconds=random.uniform(0.0, 2.0)))
            at += random.uniform(0.0, 5.0)
    scenario.actions.sort(key=lambda action: action.at)
    scenario.chaos_s = max(scenario.chaos_s, at)


def _down_s(random: Random) -> float:
    return random.choice([0.05, 0.5, 2.0, 6.0, 9.0]) * random.uniform(0.5, 1.5)


def _kill(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    steps = int(random.expovariate(1 / 30))
    return [Action(at, "kill", who, seconds=_down_s(random), number=steps)]


def _kill_at_point(
    random: Random, at: float, who: str, requesters: list[str], nodes: list[str]
) -> list[Action]:
    point = random.choice(failpoints.REQUESTER if who in requesters else failpoints.NODE)
    return [Action(at, "kill at", who, seconds=_down_s(random), number=random.randint(1, 4), text=point)]


def _power(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    what = "lose machine" if random.random() < 0.2 else "lose power"
    return [Action(at, what, random.choice(nodes), seconds=_down_s(random))]


def _pause(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    return [Action(at, "pause", who, seconds=random.choice([0.3, 1.5, 5.0, 8.0]))]


def _slow_down(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    return [Action(at, "slow", who, seconds=random.uniform(1.0, 6.0), number=random.choice([0.01, 0.05]))]


def _cut(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    which = random.choice(["both", "both", "up", "down"])
    noticed = random.random() < 0.5
    return [Action(at, "cut", who, seconds=_down_s(random), number=float(noticed), text=which)]


def _revoke(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    """A node's credentials are taken away; later it gets others."""
    return [Action(max(at, 1.0), "revoke", random.choice(nodes), seconds=random.choice([0.5, 6.0, 12.0]))]


def _server(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    what = random.choice(["server away", "lose leader"])
    return [Action(at, what, seconds=random.choice([0.3, 2.0, 5.0]))]


def _answers(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    return [
        Action(at, "lose answers", seconds=random.uniform(1.0, 6.0), number=random.choice([0.1, 0.5, 0.9]))
    ]


def _messages(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    what = random.choice(["drop", "repeat", "overtake", "stray", "echo"])
    return [Action(at, what, seconds=random.uniform(1.0, 8.0), number=random.choice([0.05, 0.2, 0.5]))]


def _clock(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    jump = random.choice([-3600.0, -300.0, -30.0, -3.0, 3.0, 30.0, 300.0, 3600.0])
    return [Action(at, "clock", who, number=jump)]


def _disk(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    seconds = random.uniform(1.0, 6.0)
    if random.random() < 0.5:
        return [Action(at, "slow disk", who, seconds=seconds, number=random.choice([0.1, 0.5, 2.0]))]
    return [Action(at, "disk full", who, seconds=seconds)]


def _log(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    return [Action(at, "log full", seconds=random.uniform(0.5, 3.0))]


def _lag(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    lag = random.choice([0.3, 1.0, 3.0])
    return [Action(at, "lag", random.choice(requesters), seconds=random.uniform(2.0, 8.0), number=lag)]


def _die(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    """It never comes back, if there is another one of its kind."""
    return [Action(at, "die", who)]


def _leave(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    return [Action(at, "leave", who, seconds=_down_s(random))]


def _forget(random: Random, at: float, who: str, requesters: list[str], nodes: list[str]) -> list[Action]:
    who = random.choice(requesters)
    if random.random() < 0.5:
        return [Action(at, "doubt the log", who)]
    return [Action(at, "forget", who, seconds=_down_s(random))]


_FAULTS = {
    "kill": _kill,
    "kill at a point": _kill_at_point,
    "power": _power,
    "pause": _pause,
    "slow": _slow_down,
    "cut": _cut,
    "revoke": _revoke,
    "server": _server,
    "answers": _answers,
    "messages": _messages,
    "clock": _clock,
    "disk": _disk,
    "log": _log,
    "lag": _lag,
    "leave": _leave,
    "die": _die,
    "forget": _forget,
}
