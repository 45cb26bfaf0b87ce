"""Plots about servers that are lost and come back with a backup, while everybody else goes on.

Knows: plain data, and what a lost log or a lost cell may still do. Must not know: how anything is carried out
(`restoring`). The first has everything in it and leaves the times to chance; each of the others tells one thing that a lost
log can do, on a stage on which it does.
"""

from random import Random

from msgspec import Struct

from protocol.jobs import Job
from tests.simulation.draw_jobs import a_job, brief, lasting, lasting_s
from tests.simulation.scenario import Action, Scenario


def restored(random: Random, scenario: Scenario) -> list[Action]:
    """The servers are lost and come back with a backup, in which some jobs are open that have ended, and some are missing
    that run; a version that was lost is followed by another one of its number. Somebody may be away meanwhile.
    """
    scenario.nodes = min(scenario.nodes, random.choice([1, 2]))
    at = random.uniform(1.5, 3.0)
    lost_at = at + random.uniform(1.0, 4.0)
    back_at = lost_at + random.uniform(0.1, 3.0)
    after = back_at + random.uniform(0.0, 6.0)
    actions = [
        Action(at, "back up"),
        Action(lost_at, "restore", seconds=back_at - lost_at),
        Action(at - random.uniform(0.7, 1.0), "submit", job=brief(random, "changed")),
        Action(at - random.uniform(0.1, 1.0), "submit", job=lasting(random, "before-0")),
        Action(at - random.uniform(0.0, 0.5), "submit", job=a_job(random, "before-1", kind="several")),
        Action(at + random.uniform(0.0, 0.8), "submit", job=lasting_s(brief(random, "changed"), after - at)),
        Action(random.uniform(at, lost_at), "submit", job=a_job(random, "between-0")),
        Action(lost_at - random.uniform(0.05, 0.3), "cordon", text=random.choice(scenario.node_names)),
        Action(after, "submit", job=brief(random, "changed")),
        Action(after, "submit", job=a_job(random, random.choice(["before-0", "before-1", "between-0"]))),
    ]
    who = random.choice([*scenario.requester_names, *scenario.node_names])
    away_s = random.uniform(0.5, 8.0)
    befalls = [
        [],
        [],
        [Action(random.uniform(at, after), "kill", who, seconds=away_s)],
        [Action(random.uniform(at, after), "cut", who, seconds=away_s, text="both")],
        [Action(random.uniform(at, after), "pause", who, seconds=away_s)],
    ]
    return actions + random.choice(befalls)


class _Lost(Struct, frozen=True):
    """A stage on which a version of a job is lost: when the servers are, when they are back, and what leads there."""

    at: float
    back_at: float
    actions: list[Action]


def order_lost(random: Random, scenario: Scenario) -> list[Action]:
    """A version is lost whose program goes on at the only node, and the next one of its number, which has the same
    executions, is over soon; its order is lost on the way.
    """
    stage = _lost_version(random, scenario, lasting(random, "changed"))
    at = stage.back_at + random.uniform(0.3, 4.0)
    return [
        *stage.actions,
        Action(at - 0.1, "cut", "n1", seconds=random.uniform(0.5, 3.0), text="down"),
        Action(at, "submit", job=brief(random, "changed")),
    ]


def end_lost(random: Random, scenario: Scenario) -> list[Action]:
    """A version is lost whose program ends while the only node hears nothing: it reports that end until it is answered, also
    when the next one of its number is in the log, of which it cannot hear.
    """
    stage = _lost_version(random, scenario, lasting_s(brief(random, "changed"), random.uniform(1.2, 2.5)))
    deaf_at, at = stage.at - 0.2, stage.back_at + random.uniform(0.3, 2.0)
    deaf_s = at - deaf_at + random.uniform(2.0, 5.0)
    return [
        *stage.actions,
        Action(deaf_at, "cut", "n1", seconds=deaf_s, text="down"),
        Action(at, "submit", job=brief(random, "changed")),
    ]


def _lost_version(random: Random, scenario: Scenario, lost: Job) -> _Lost:
    """A first version of a job is in the backup, the second one, `lost`, is not."""
    scenario.nodes = 1
    scenario.latency_s = min(scenario.latency_s, (0.001, 0.05))
    at = random.uniform(2.5, 3.5)
    lost_at, away_s = at + random.uniform(0.8, 1.2), random.uniform(0.1, 2.0)
    actions = [
        Action(at - random.uniform(1.0, 1.5), "submit", job=brief(random, "changed")),
        Action(at, "back up"),
        Action(at + random.uniform(0.05, 0.2), "submit", job=lost),
        Action(lost_at, "restore", seconds=away_s),
    ]
    return _Lost(lost_at, lost_at + away_s, actions)


def word_lost(random: Random, scenario: Scenario) -> list[Action]:
    """The last word about a node is lost, which all requesters have heard; the one before it, which lets work come, holds
    again.
    """
    scenario.latency_s = min(scenario.latency_s, (0.001, 0.05))
    at = random.uniform(2.0, 3.0)
    lost_at, away_s = at + random.uniform(1.5, 3.0), random.uniform(0.1, 2.0)
    node = random.choice(scenario.node_names)
    return [
        Action(random.uniform(1.0, 1.5), "uncordon", text=node),
        Action(at, "back up"),
        Action(at + random.uniform(0.1, 0.5), random.choice(["cordon", "reject"]), text=node),
        Action(lost_at, "restore", seconds=away_s),
        Action(lost_at + away_s + random.uniform(0.5, 3.0), "submit", job=a_job(random, "after")),
    ]
