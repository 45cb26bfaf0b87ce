"""What a record names of a result, as rows: what ``shoal ls`` prints and ``/results/files`` answers.

Knows: an execution's ``Written`` as it looks over REST. Must not know: HTTP, or any store. Plain functions.
"""

from typing import Any

from storage.long_lists import in_order

Json = dict[str, Any]


def digests_of(written: Json | None) -> dict[str, str]:
    """The digests of the files that a record names, by path."""
    return {each["Path"]: each["SHA256"] for each in (written or {}).get("Files") or []}


def links_of(written: Json | None) -> list[Json]:
    """The links that a record names."""
    return (written or {}).get("Links") or []


def has_all_files(written: Json | None) -> bool:
    """Whether a record names every file."""
    return written is not None and len(written.get("Files") or []) == written["Count"]


def has_all(written: Json | None) -> bool:
    """Whether a record names all that was written, links and empty folders included."""
    if written is None or not has_all_files(written):
        return False
    return len(links_of(written)) + len(written.get("Folders") or []) == written.get("Others")


def rows_of(written: Json | None) -> list[Json]:
    """What a record names, in the order of a walk; links have a ``Target``."""
    told = written or {}
    found = [{**each, "Type": "file"} for each in told.get("Files") or []]
    found += [{**each, "Type": "link", "Size": 0, "SHA256": ""} for each in links_of(told)]
    found += [{"Path": each, "Type": "folder", "Size": 0, "SHA256": ""} for each in told.get("Folders") or []]
    return in_order(found, lambda each: str(each["Path"]).split("/"))


def is_below(path: str, folder: str) -> bool:
    """Whether a path is that folder or file, or in it. An empty folder is the whole result."""
    wanted = tuple(part for part in folder.split("/") if part not in ("", "."))
    return tuple(path.split("/"))[: len(wanted)] == wanted
