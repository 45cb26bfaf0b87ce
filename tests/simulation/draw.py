"""Draws the scenario of a seed. Every seed draws its own mix: some have everything at once."""

from random import Random

from tests.simulation.draw_faults import absence, faults, forgetful, upgrade
from tests.simulation.draw_people import people
from tests.simulation.scenario import Scenario


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
        [*people(random, scenario), *faults(random, scenario), *absence(random, scenario)],
        key=lambda action: action.at,
    )
    if random.random() < 0.08:
        everybody = [*scenario.requester_names, *scenario.node_names]
        scenario.older = random.sample(everybody, random.randint(1, len(everybody) - 1))
        upgrade(random, scenario)
    if random.random() < 0.1:
        forgetful(random, scenario)
    return scenario
