"""``shoal describe JOB``: what was asked, what became of it, and why.

Knows: the layout. Must not know: how answers come (`requester.client`).
"""

import time
from collections import Counter
from typing import Annotated, Any, Final

from cyclopts import Parameter

from protocol.ids import short
from requester.cli.endpoint import Api
from requester.cli.exits import CLOSED, Exit, tell
from requester.cli.flags import JobRef, Namespace, Version
from requester.cli.output import (
    ObjectFormat,
    age,
    clean,
    clean_text,
    moment,
    print_object,
    print_table,
    size,
    terminal_width,
)
from requester.cli.progress import held_up_update
from requester.cli.views import as_spec, causes_of, desired_of, is_open, state_of, telling_most, time_of

Json = dict[str, Any]

FILES_SHOWN: Final = 10
SHOWN_MAX: Final = 10
"""A job of more executions is summed up: so many of them are in the table, those first that say most."""
TOLD_IN_FULL: Final = 3
"""Of those, so many are told with all that happened to them and what they wrote."""
CAUSES_SHOWN: Final = 5


def describe(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    version: Version = 0,
    spec: Annotated[bool, Parameter(help="Only what was asked, as a spec that can be submitted.")] = False,
    all: Annotated[
        bool, Parameter(help=f"Every execution in full, also of a job that has more than {SHOWN_MAX}.")
    ] = False,
    how: ObjectFormat = ObjectFormat(),
    api: Api = Api(),
) -> int:
    """Describe a job: what was asked, what became of it, and why."""
    include = "" if spec else "executions,history"
    with api.client() as client:
        view = client.job(job, include=include, namespace=namespace, version=version)
    if spec:
        print_object(as_spec(view["Job"]), how.output or "yaml", how.pretty)
    elif how.output:
        print_object(view, how.output, how.pretty)
    else:
        _describe(view, time.time(), whole=all)
    return Exit.OK


def _describe(view: Json, now: float, *, whole: bool) -> None:
    job, executions = view["Job"], view["Executions"]["Items"] or []
    items = view["History"]["Items"] or []
    older = view.get("Older", [])
    everything = [*older, *executions]
    whole = whole or len(everything) <= SHOWN_MAX
    telling = everything if whole else telling_most(everything)[:SHOWN_MAX]
    in_full = executions if whole else telling[:TOLD_IN_FULL]
    _print_pairs(_head(job) + _queue(view) + _rest(view) + _update(view) + _log(view))
    if everything:
        _section("Summary")
        _print_pairs(_counts(executions, older))
        if not whole:
            _print_causes(everything)
    _section("Job History")
    _print_history([item for item in items if "ExecutionID" not in item])
    if everything:
        _section("Executions" if whole else f"Executions ({len(telling)} of {len(everything):,})")
        shown = {each["ID"] for each in telling}
        _print_executions([e for e in everything if e["ID"] in shown], now, with_version=bool(older))
    for each in in_full:
        _section(f"Execution {short(each['ID'])} History")
        _print_history([item for item in items if item.get("ExecutionID") == each["ID"]])
        _print_facts(each)
    _print_output(in_full)
    _tell_of_more(view, whole=whole)


def _tell_of_more(view: Json, *, whole: bool) -> None:
    """Where the rest is of what was not shown."""
    job = view["Job"]["ID"]
    if not whole:
        tell(
            f"\nAll its executions: shoal job executions {job}; each in full: shoal job describe {job} --all"
        )
    if view["History"].get("Earlier"):
        tell(f"\nThis is the newest of its history; all of it: shoal job history {job}")


def _head(job: Json) -> list[tuple[str, str]]:
    task = job["Tasks"][0]
    pairs = [
        ("ID", job["ID"]),
        ("Name", job["Name"]),
        ("Namespace", job["Namespace"]),
        ("Type", job["Type"]),
        ("State", job["State"]["StateType"]),
        ("Message", job["State"]["Message"]),
        ("Hint", (job.get("Failure") or {}).get("Hint", "")),
        ("Count", str(job["Count"]) if job["Type"] in ("batch", "service") else ""),
        ("Engine", task["Engine"]["Type"]),
        ("Publisher", task["Publisher"].get("Type", "")),
        ("Labels", ", ".join(f"{key}={value}" for key, value in (job["Labels"] or {}).items())),
        ("Created Time", moment(job["CreateTime"])),
        ("Modified Time", moment(job["ModifyTime"])),
        ("Version", str(job["Version"])),
    ]
    return [(name, value) for name, value in pairs if value]


def _queue(view: Json) -> list[tuple[str, str]]:
    """Where the job stands in the queue, and why it waits."""
    queue = view.get("Queue")
    if not queue:
        return []
    ahead, waiting = queue["Ahead"], queue["Waiting"]
    place = f"{ahead} of {waiting} waiting jobs go first" if ahead is not None else f"one of {waiting} jobs"
    pairs = [("Queue", f"{place}, since {queue['Since'].replace('T', ' ')[:19]}")]
    if "KeptNode" in queue:
        pairs.append(("Kept Node", f"{queue['KeptNode']}: the next room there is this job's"))
    details = (view["Job"].get("Failure") or {}).get("Details") or {}
    lines = [f"{short(node)}  {reason}" for node, reason in details.items() if node != "others"]
    if "others" in details:
        lines.append(f"and {details['others']} more: shoal job explain {short(view['Job']['ID'])}")
    return [*pairs, ("Why", "\n".join(lines))]


def _rest(view: Json) -> list[tuple[str, str]]:
    """When a job that rests is tried again, and what went wrong last."""
    if "NextAttempt" not in view:
        return []
    pairs = [("Next Attempt", f"{view['NextAttempt'].replace('T', ' ')[:19]}, after a rest")]
    failed = [each for each in view["Executions"]["Items"] or [] if each.get("Failure")]
    if failed:
        last = max(failed, key=lambda each: each["ModifyTime"])["Failure"]
        pairs += [("Last Failure", last["Message"]), ("Hint", last["Hint"])]
    return [(name, value) for name, value in pairs if value]


def _log(view: Json) -> list[tuple[str, str]]:
    """That the log takes only so much more of a job."""
    if "EntriesLeft" not in view:
        return []
    left = f"{view['EntriesLeft']:,} more entries of this job, then it fails"
    return [("Log Takes", f"{left}: stop it, delete it and submit it again before that")]


def _update(view: Json) -> list[tuple[str, str]]:
    """That a version has not come up yet, if that is so."""
    job, executions = view["Job"], view["Executions"]["Items"] or []
    if held_up := held_up_update(job, executions):
        return [("Update", held_up)]
    older = [each for each in view.get("Older", []) if is_open(each)]
    if not older or job["State"]["StateType"] in CLOSED:
        return []
    there = sum(state_of(each) == "Running" for each in executions)
    return [
        (
            "Update",
            f"{there} of version {job['Version']} running; {len(older)} of earlier versions go on until it has come up",
        )
    ]


def _counts(executions: list[Json], older: list[Json]) -> list[tuple[str, str]]:
    """How many executions there are in each state."""
    counts = Counter(state_of(each) for each in executions)
    counts.update(f"{state_of(each)} (version {each['JobVersion']})" for each in older)
    return [(state, str(count)) for state, count in counts.items()]


def _print_causes(executions: list[Json]) -> None:
    """What went wrong, the most frequent cause first."""
    causes = causes_of(executions)
    if not causes:
        return
    _section("Failures")
    rows = [
        [str(len(those)), short(those[-1]["ID"]), cause, those[-1]["Failure"]["Hint"]]
        for cause, those in causes[:CAUSES_SHOWN]
    ]
    print_table(["COUNT", "LAST", "CAUSE", "HINT"], rows, width=terminal_width())
    if others := causes[CAUSES_SHOWN:]:
        print(f"... and {sum(len(those) for _, those in others)} for {len(others)} other causes")


def _print_facts(each: Json) -> None:
    """Where an execution is reached, and what it read and wrote."""
    if ports := each.get("Ports"):
        print("Ports: " + ", ".join(f"{clean(name)} {number}" for name, number in ports.items()))
    for read in each.get("Inputs", []):
        notes = [size(read["Size"])] if read["Size"] is not None else []
        notes += ["on the node already"] if read.get("Cached") else []
        noted = f" ({', '.join(notes)})" if notes else ""
        print(f"Input {clean(read['Target'])}: {clean(read['Identity'])}{noted}")
    result = each["PublishedResult"]
    if result.get("Type"):
        told = {**result.get("Params", {})}
        if listing := told.pop("Listing", None):
            told["Objects"] = f"{listing['Count']} (SHA256 {listing['SHA256'][:12]})"
        params = ", ".join(f"{key}: {value}" for key, value in told.items() if value)
        print(f"Published Result: {result['Type']} {{{clean(params)}}}")
    if written := each.get("Written"):
        _print_written(written)


def _print_written(written: Json) -> None:
    """The files of a result as ``sha256sum`` lists them, the first of many."""
    print(
        f"Written: {written['Count']} files, {size(written['Size'])}; their list has SHA-256 {written['SHA256']}"
    )
    shown = written["Files"][:FILES_SHOWN]
    for file in shown:
        print(f"  {file['SHA256']}  {clean(file['Path'])} ({size(file['Size'])})")
    if written["Count"] > len(shown):
        print(f"  ... and {written['Count'] - len(shown)} more")


def _print_output(executions: list[Json]) -> None:
    """What the programs wrote, as far as the log keeps it."""
    written = [each for each in executions if each.get("RunOutput")]
    for each in written:
        of = f" of {short(each['ID'])}" if len(written) > 1 else ""
        output = each["RunOutput"]
        parts = (
            ("Standard Output", output["Stdout"], output["StdoutTruncated"]),
            ("Standard Error", output["stderr"], output["StderrTruncated"]),
        )
        for title, text, cut in parts:
            if text:
                _section(f"{title}{of}")
                print(clean_text(text.rstrip("\n")))
            if cut:
                tell(f"... there is more: shoal job logs {each['JobID']} --execution-id {short(each['ID'])}")


def _print_executions(executions: list[Json], now: float, *, with_version: bool) -> None:
    version = ["VERSION"] if with_version else []
    header = ["ID", *version, "NODE ID", "STATE", "DESIRED", "REV.", "CREATED", "MODIFIED", "COMMENT"]
    rows = [
        [
            short(each["ID"]),
            *([str(each["JobVersion"])] if with_version else []),
            short(each["NodeID"]),
            state_of(each),
            desired_of(each),
            str(each["Revision"]),
            age(each["CreateTime"], now) + " ago",
            age(each["ModifyTime"], now) + " ago",
            each["ComputeState"]["Message"],
        ]
        for each in executions
    ]
    print_table(header, rows, width=terminal_width())


def _print_history(items: list[Json]) -> None:
    rows = [[time_of(item), item["Event"]["Topic"], item["Event"]["Message"]] for item in items]
    print_table(["TIME", "TOPIC", "EVENT"], rows, width=terminal_width())


def _print_pairs(pairs: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        first, *more = value.split("\n")
        print(f"{name.ljust(width)} = {clean(first)}")
        for each in more:
            print(f"{' ' * width}   {clean(each)}")


def _section(title: str) -> None:
    print(f"\n{title}")
