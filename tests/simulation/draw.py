"""Draws the scenario of a seed. Every seed draws its own mix: some have everything at once."""

from random import Random

from tests.simulation.draw_faults import absence, faults, forgetful, upgrade
from tests.simulation.draw_people import people
from tests.simulation.draw_plots import Plot, plot_of
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
    plot = plot_of(seed)
    if plot is not None:
        return _told(random, scenario, plot)
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


def _told(random: Random, scenario: Scenario, plot: Plot) -> Scenario:
    """The scenario with that plot in it: often little else happens, since most plots can be spoiled."""
    actions = plot(random, scenario)
    scenario.chaos_s = max(action.at + action.seconds for action in actions) + random.uniform(0.5, 2.0)
    if random.random() < 0.5:
        actions += people(random, scenario)
    if random.random() < 0.2:
        actions += faults(random, scenario)
    scenario.actions = sorted(actions, key=lambda action: action.at)
    return scenario
