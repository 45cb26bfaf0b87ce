"""docs/api.md tells of every route."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from requester.api import agent, files, jobs, metrics, nodes, results, streams

PAGE: Final = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
MODULES: Final = (jobs, streams, results, files, nodes, agent, metrics)


def routes() -> Iterator[tuple[str, str]]:
    """Each route's method and path, as the page writes it: below a heading that names the beginning, or in full."""
    for module in MODULES:
        for route in module.routes:
            assert isinstance(route, web.RouteDef)
            path = route.path.replace("{ref}", "REF").replace("{execution}", "EXECUTION")
            path = re.sub(r"/\{.*", "/…", path)
            base = next((base for base in (jobs.BASE, nodes.BASE) if path.startswith(base)), "")
            yield route.method, path.removeprefix(base) or "/"


@pytest.mark.parametrize(("method", "path"), sorted(set(routes())))
def test_every_route_is_on_the_page(method: str, path: str) -> None:
    """A route that a requester answers is in docs/api.md, with its method or by its path alone."""
    assert f"`{method} {path}`" in PAGE or f"`{path}`" in PAGE
