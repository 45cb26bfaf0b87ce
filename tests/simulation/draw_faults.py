"""What goes wrong in one simulation, drawn by its seed: some kinds of faults, a few times each, at whom it may be.

Knows: plain data. Must not know: how anything is carried out. Many seeds have few faults of one kind: nearly all known
faults of real systems need no more.
"""

from random import Random

from protocol import failpoints
from tests.simulation.draw_jobs import a_job, with_new_words
from tests.simulation.scenario import Action, Scenario


def faults(random: Random, scenario: Scenario) -> list[Action]:
    kinds = list(_FAULTS)
    chosen = random.sample(kinds, random.choice([0, 0, 1, 1, 1, 2, 2, 3, len(kinds)]))
    if not chosen:
        return []
    requesters, nodes = scenario.requester_names, scenario.node_names
    actions: list[Action] = []
    only_nodes = random.random() < 0.1
    for _ in range(random.randint(1, 8)):
        who = random.choice(nodes if only_nodes else [random.choice(requesters), random.choice(nodes)])
        at = random.uniform(0.2, scenario.chaos_s)
        actions += _FAULTS[random.choice(chosen)](random, at, who, requesters, nodes)
    return actions


def absence(random: Random, scenario: Scenario) -> list[Action]:
    """Where jobs leave the log soon, somebody is often away for longer than that, and often while jobs are submitted."""
    if not scenario.keep_s or scenario.requesters == 1 or random.random() < 0.4:
        return []
    who = f"r{random.randint(1, scenario.requesters)}"
    at, away_s = random.uniform(0.5, 4.0), scenario.keep_s + random.uniform(2.0, 8.0)
    actions = [Action(at, "cut", who, seconds=away_s, number=1.0, text="both")]
    for number in range(random.choice([0, 2, 4])):
        job = a_job(random, f"doubted-{number}", kind="small")
        begin = at - 2 * scenario.latency_s[1] * random.random()
        actions.append(Action(max(begin, 0.1), "submit", job=job))
    return actions


def forgetful(random: Random, scenario: Scenario) -> None:
    """Nodes are forgotten soon, and one is away for about as long: killed, or cut off and at work; or for ever."""
    scenario.forget_s = random.uniform(0.2, 4.0)
    who, at = random.choice(scenario.node_names), random.uniform(0.5, 4.0)
    away_s = scenario.forget_s + random.uniform(6.0, 18.0)
    away = Action(at, "kill", who, seconds=away_s)
    draw = random.random()
    if draw < 0.3:
        away = Action(at, "cut", who, seconds=away_s, number=1.0, text="both")
    elif draw < 0.7:
        away = Action(at, "die", who)
    scenario.actions = sorted([*scenario.actions, away], key=lambda action: action.at)
    scenario.chaos_s = max(scenario.chaos_s, at + away_s + random.uniform(0.0, 2.0))


def upgrade(random: Random, scenario: Scenario) -> None:
    """Some of what is of the version before is replaced while work goes on, one after the other; and somebody makes use of
    what is new.
    """
    at = random.uniform(1.0, scenario.chaos_s)
    job = a_job(random, "new-field", kind=random.choice(["small", "several", "ops", "daemon"]))
    job = with_new_words(job)
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
