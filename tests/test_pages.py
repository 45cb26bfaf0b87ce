"""The pages for people: what they name is there, and one can find them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from requester.cli.app import build

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
WIDTH: Final = 128
"""Characters of a line of prose. Tables and blocks are as wide as they have to be."""

named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to each page of docs."""
    index = (DOCS / "README.md").read_text()
    assert [
        page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index
    ] == []


@named
def test_prose_has_one_width(page: Path) -> None:
    """A page can be read as it is, in a terminal: no line of its prose is longer than another page's may be."""
    prose = re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), page.read_text(), flags=re.DOTALL)
    long = [
        number
        for number, line in enumerate(prose.splitlines(), 1)
        if len(line) > WIDTH and not line.startswith("|")
    ]
    assert long == []


@named
def test_every_link_leads_somewhere(page: Path) -> None:
    """A link to a file of the repository names one that is there, and a link into a page one of its headings."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if ":" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (heading and heading not in headings(target.read_text())):
            broken.append(link)
    assert broken == []


@named
def test_every_command_shown_exists(page: Path) -> None:
    """Each ``shoal …`` in a page is a command there is, with flags that it has."""
    app = build(lambda: "0")
    wrong = []
    for command in commands(page.read_text()):
        _, apps, rest = app.parse_commands(shlex.split(command))
        if apps[-1].default_command is None:
            if command.strip() and command != apps[-1].name[0] and rest:
                wrong.append(command)
            continue
        names = {name for argument in apps[-1].assemble_argument_collection() for name in argument.names}
        flags = {word.partition("=")[0] for word in rest if re.match(r"-{1,2}[a-z]", word)}
        wrong += [f"{command}: {flag}" for flag in sorted(flags - names)]
    assert wrong == []


def commands(text: str) -> Iterator[str]:
    """What is shown of our command line, in blocks of shell and in running text, from its first word behind ``shoal``."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for shown in [*lines, *inline]:
        if found := re.match(r"\s*(?:shoal|python -m requester) (.*)", shown):
            yield found[1].replace("…", "").strip()


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
