"""What needs several things in a row, in an order that chance finds once in thousands of seeds: plots, told in turn.

Knows: plain data, and where each plot hurts. Must not know: how anything is carried out. A plot sets the stage that it
needs, and says what happens on it; how long each thing takes, and who is struck, is drawn.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from msgspec.structs import replace

from protocol.jobs import Job, Retry, Spec, Timeouts
from tests.simulation.draw_jobs import a_job, brief, lasting, lasting_s, with_new_words
from tests.simulation.draw_restores import end_lost, order_lost, restored, word_lost
from tests.simulation.scenario import ENDLESS, Action, Scenario

Plot = Callable[[Random, Scenario], list[Action]]

EVERY: Final = 3
"""One in so many seeds tells a plot."""


def plot_of(seed: int) -> Plot | None:
    """The plot that a seed tells, if any: they take turns, so that each is in any few hundred seeds."""
    turn, rest = divmod(seed, EVERY)
    return PLOTS[turn % len(PLOTS)] if rest == EVERY - 1 else None


def _new_words(random: Random, name: str, kind: str) -> Job:
    """A job with a field that the version before does not know, and without timeouts."""
    job = with_new_words(a_job(random, name, kind=kind))
    return replace(job, tasks=[replace(job.task, timeouts=Timeouts())])


def _deleted_in_doubt(random: Random, scenario: Scenario) -> list[Action]:
    """Jobs are deleted, and whoever asked for it has gone before the answer comes; the log's reader is often first."""
    actions: list[Action] = []
    lost = random.random() < 0.7
    for number in range(8):
        name, at = f"deleted-{number}", random.uniform(0.6, 1.2)
        actions.append(Action(at, "submit", job=brief(random, name)))
        patience_s = random.uniform(0.5, 3.0) * scenario.latency_s[1]
        actions.append(Action(at + random.uniform(2.5, 4.0), "delete", text=name, seconds=patience_s))
    if lost:
        actions.append(Action(2.8, "lose answers", seconds=8.0, number=1.0))
    return actions


def _doubted_submission(random: Random, scenario: Scenario) -> list[Action]:
    """A requester hears no answers, then nothing at all; others run what it submitted, and clear the log of it."""
    scenario.requesters = max(scenario.requesters, 2)
    scenario.keep_s = random.uniform(1.5, 2.5)
    scenario.latency_s = min(scenario.latency_s, (0.001, 0.05))
    at, way_s = random.uniform(1.0, 3.0), scenario.latency_s[1]
    away_s = scenario.keep_s + random.uniform(7.0, 10.0)
    deaf_s = 4 * way_s + 0.02
    return [
        Action(at, "cut", "r1", seconds=away_s, text="down"),
        *(
            Action(at + way_s * random.random(), "submit", "r1", job=brief(random, f"doubted-{n}"), once=True)
            for n in range(4)
        ),
        Action(at + deaf_s, "cut", "r1", seconds=away_s - deaf_s, text="both"),
    ]


def _second_life(random: Random, scenario: Scenario) -> list[Action]:
    """While a requester is away a job ends and is deleted, the log forgets even that, and another job takes its name."""
    scenario.requesters = max(scenario.requesters, 2)
    scenario.keep_s = random.uniform(1.5, 2.0)
    who, at = f"r{scenario.requesters}", random.uniform(1.2, 2.5)
    actions = []
    for name in ("lived-0", "lived-1"):
        actions += [
            Action(0.7, "submit", "r1", job=brief(random, name)),
            Action(at + random.uniform(0.5, 1.0), "delete", "r1", text=name),
            Action(at + random.uniform(9.0, 10.0), "submit", "r1", job=lasting(random, name)),
        ]
    away_s = 10.5 + random.uniform(0.0, 1.0)
    away = [
        Action(at, "cut", who, seconds=away_s, number=1.0, text="both"),
        Action(at, "kill", who, seconds=away_s),
    ]
    return [*actions, random.choice(away)]


def _forgotten(random: Random, scenario: Scenario) -> list[Action]:
    """A node is gone for good; its owner forgets it, and the others learn of that. Another one is gone that people have
    taken out: that stays known.
    """
    scenario.requesters, scenario.nodes = max(scenario.requesters, 2), 3
    scenario.forget_s = random.uniform(0.2, 2.0)
    return [
        Action(random.uniform(1.0, 1.4), "cordon", text="n2"),
        Action(random.uniform(2.5, 4.0), "die", "n2"),
        Action(random.uniform(1.5, 4.0), "die", "n3"),
    ]


def _asked_again(random: Random, scenario: Scenario) -> list[Action]:
    """A node cannot read some jobs and is upgraded; the other one, which could read them, is gone for good before that or
    after, perhaps with some of them.
    """
    scenario.nodes = 2
    scenario.older = ["n1"]
    # Before people speak of nodes: one that is cordoned refuses nothing.
    at = random.uniform(0.6, 1.0)
    gone_at = at + random.uniform(-0.2, 1.5)
    upgraded_at = at + random.uniform(0.5, 2.0) + random.choice([0.0, 0.0, 0.0, 4.0])
    jobs = [_new_words(random, f"asked-again-{number}", "small") for number in range(3)]
    return [
        *(Action(at + random.uniform(0.0, 0.3), "submit", job=lasting_s(job, 6.0)) for job in jobs),
        Action(gone_at, "die", "n2"),
        Action(upgraded_at, "upgrade", "n1", seconds=random.uniform(0.0, 1.0)),
    ]


def _done_elsewhere(random: Random, scenario: Scenario) -> list[Action]:
    """A job is for every node, and one of them can never read it."""
    scenario.nodes = max(scenario.nodes, 2)
    scenario.older = ["n1"]
    job = _new_words(random, "done-elsewhere", "ops")
    return [Action(random.uniform(1.5, 3.0), "submit", job=replace(job, retry=Retry()))]


def _twins(random: Random, scenario: Scenario) -> list[Action]:
    """Two machines are the same node for a while, and something may befall either."""
    at, actions = _second_machine(random, scenario)
    after, who = at + random.uniform(0.0, 8.0), random.choice(["n1", "n1-twin"])
    befalls = [
        [],
        [Action(after, "kill", who, seconds=random.choice([0.1, 6.0]))],
        [Action(after, "leave", who, seconds=random.uniform(0.0, 6.0))],
        [Action(at + random.uniform(5.0, 9.0), "die", who)],
        [Action(after, "cut", who, seconds=random.choice([1.0, 6.0]), text="both")],
        [Action(after, "pause", who, seconds=random.choice([1.5, 6.0]))],
    ]
    return actions + random.choice(befalls)


def _born_together(random: Random, scenario: Scenario) -> list[Action]:
    """A node is started again a moment after another machine came up as the same one."""
    at, actions = _second_machine(random, scenario)
    return [*actions, Action(at + 0.05, "kill", "n1", seconds=random.uniform(0.05, 0.2))]


def _outlived(random: Random, scenario: Scenario) -> list[Action]:
    """The first of two machines counts as the later one, for its clock is fast; then it is gone for good."""
    at, actions = _fast_and_another(random, scenario)
    return [*actions, Action(at + random.uniform(4.0, 9.0), "die", "n1")]


def _removed(random: Random, scenario: Scenario) -> list[Action]:
    """The same, and a person removes the node while the first machine goes on, or when it is gone; the other one is started
    again to take its place.
    """
    at, actions = _fast_and_another(random, scenario)
    removed_at = at + random.uniform(2.5, 5.0)
    return [
        *actions,
        Action(removed_at, "remove", text="n1"),
        Action(removed_at + random.uniform(0.1, 1.0), "leave", "n1-twin"),
        Action(removed_at + random.choice([-1.0, 0.5, 8.0, 10.0]), "die", "n1"),
    ]


def _fast_and_another(random: Random, scenario: Scenario) -> tuple[float, list[Action]]:
    """A machine whose clock is fast, and another one as the same node, whose clock is right."""
    at, actions = _second_machine(random, scenario, kinds=["new"])
    fast = [Action(0.6, "clock", "n1", number=3600.0), Action(0.7, "kill", "n1", seconds=0.1)]
    return at, [*actions, *fast]


def _second_machine(
    random: Random, scenario: Scenario, *, kinds: Sequence[str] = ("copy", "new")
) -> tuple[float, list[Action]]:
    """When another machine comes up as the node n1, a copy of the first or one that was set up under its name; and work that
    the first one has then.
    """
    scenario.nodes = random.choice([1, 1, 2])
    at = random.randint(1, 3) + random.uniform(0.3, 0.5)
    kind = random.choice(["long", "daemon", "several", "ops"])
    return at, [
        Action(at - random.uniform(0.1, 0.6), "submit", job=lasting(random, "twin-0")),
        Action(at - random.uniform(0.1, 0.6), "submit", job=a_job(random, "twin-1", kind=kind)),
        Action(at, "twin", "n1", text=random.choice(kinds)),
    ]


def _many_entries(random: Random, scenario: Scenario) -> list[Action]:
    """A job is changed again and again, until the log takes little more of it; then it is submitted anew under its name."""
    scenario.latency_s = min(scenario.latency_s, (0.001, 0.05))
    # Of fewer none would be kept for the job's end and its being deleted.
    scenario.entries_max = 40
    scenario.snapshot_after = random.choice([0, 0, 6])
    actions, at = [], 1.0
    for _ in range(45):
        job = a_job(random, "often", kind=random.choice(["service", "daemon", "long"]))
        actions.append(Action(at, "submit", job=job))
        at += random.uniform(0.02, 0.2)
    actions.append(Action(at + 1.0, "stop", text="often"))
    actions.append(Action(at + 4.0, "delete", text="often"))
    actions.append(Action(at + 6.0, "submit", job=brief(random, "often")))
    return actions


def _for_ever(random: Random, scenario: Scenario) -> list[Action]:
    """Services and daemons end and are started again, many more times than the log takes entries of one job; versions come
    and go meanwhile, and somebody is away.
    """
    scenario.latency_s = min(scenario.latency_s, (0.001, 0.05))
    # So many that a reader which lags for some seconds does not cost a job its end.
    scenario.entries_max, scenario.snapshot_after = 200, random.choice([4, 6, 12])
    at, actions = 0.6, []
    for _ in range(random.choice([1, 1, 2, 4])):
        actions += [Action(at, "submit", job=_endless(random, f"{ENDLESS}-{number}")) for number in range(2)]
        at += random.uniform(2.0, 8.0)
    who = random.choice([*scenario.requester_names, *scenario.node_names])
    at, away_s = random.uniform(2.0, 12.0), random.uniform(0.5, 9.0)
    befalls = [
        [],
        [Action(at, "kill", who, seconds=away_s)],
        [Action(at, "cut", who, seconds=away_s, text="both")],
        [Action(at, "pause", who, seconds=away_s)],
        [Action(at, "lag", random.choice(scenario.requester_names), number=2.0, seconds=away_s)],
        [Action(at, "forget", random.choice(scenario.requester_names), seconds=away_s)],
        [Action(at, "doubt the log", random.choice(scenario.requester_names))],
        [Action(at, "back up"), Action(at + away_s, "restore", seconds=1.0)],
    ]
    # Something has to be the last, or there is not enough time for many entries.
    end = Action(random.uniform(18.0, 28.0), "submit", job=brief(random, "last"))
    return [*actions, *random.choice(befalls), end]


def _endless(random: Random, name: str) -> Job:
    """A service or daemon whose program ends at once, and that hardly rests."""
    job = a_job(random, name, kind=random.choice(["service", "daemon"]))
    engine = replace(job.task.engine, params=job.task.engine.params | {"Seconds": random.choice([0.0, 0.2])})
    task = replace(job.task, engine=engine, publisher=Spec(""), input_sources=[], timeouts=Timeouts())
    return replace(job, tasks=[task], retry=Retry(backoff=0.05, backoff_max=random.choice([0.05, 0.4])))


PLOTS: Final[tuple[Plot, ...]] = (
    _deleted_in_doubt,
    _doubted_submission,
    _second_life,
    _forgotten,
    _asked_again,
    _done_elsewhere,
    _twins,
    _born_together,
    _outlived,
    _removed,
    _many_entries,
    _for_ever,
    restored,
    order_lost,
    end_lost,
    word_lost,
    # Twice as often: what these are for is not found in each of their seeds.
    _deleted_in_doubt,
    _asked_again,
)
