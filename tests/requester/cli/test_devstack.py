"""What a cluster to try things on names as an example."""

from requester.cli.devstack import CONTAINER, MODULE, example


def test_the_example_is_one_that_can_run() -> None:
    """With a Docker on some node it is a container; else it is said that none can run, and a module is named that can."""
    assert example({"docker": "", "wasm": ""}) == f"Try: {CONTAINER}."
    assert example({}) == f"Try: {CONTAINER}."
    missing = "No node here can run containers: Docker does not answer."
    assert example({"docker": "Docker does not answer", "wasm": ""}) == f"{missing} Try: {MODULE}."
    assert example({"docker": "Docker does not answer", "wasm": "no runtime"}) == missing
