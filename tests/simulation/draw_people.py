"""What people ask in one simulation, drawn by its seed.

Knows: plain data. Must not know: who answers, or what goes wrong meanwhile.
"""

from random import Random

from msgspec.structs import replace

from tests.simulation.draw_jobs import a_job
from tests.simulation.scenario import Action, Scenario


def people(random: Random, scenario: Scenario) -> list[Action]:
    actions: list[Action] = []
    for number in range(random.randint(3, 9)):
        begin = random.uniform(0.5, scenario.chaos_s)
        if random.random() < 0.25:
            begin = 1.0
        job = a_job(random, f"job-{number}")
        actions.append(Action(begin, "submit", job=job))
        draw = random.random()
        if draw < 0.2:
            actions.append(Action(begin + random.uniform(0.0, 5.0), "stop", text=job.name))
        elif draw < 0.35:
            again = a_job(random, job.name)
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
        for node in scenario.node_names:
            actions.append(Action(random.uniform(0.5, 4.0), "approve", text=node))
    return [_impatient(random, action) for action in actions]


def _impatient(random: Random, action: Action) -> Action:
    """Now and then somebody hangs up at once, and asks again."""
    return replace(action, seconds=random.uniform(0.0, 0.2)) if random.random() < 0.04 else action


_UNDOES = {"cordon": "uncordon", "drain": "uncordon", "reject": "approve"}


def _about_a_node(random: Random, scenario: Scenario, name: str) -> list[Action]:
    """Somebody takes a node out, for a while or until the end; often others have a word about it at the same time, and often
    a job of that name has something there that lasts.
    """
    node = random.choice(scenario.node_names)
    at = random.uniform(1.0, scenario.chaos_s)
    if random.random() < 0.1:
        return _replaced(random, at, node)
    actions: list[Action] = []
    if random.random() < 0.6:
        job = a_job(random, name, kind=random.choice(["long", "service", "daemon"]))
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
