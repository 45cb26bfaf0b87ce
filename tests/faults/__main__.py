"""``python -m tests.faults``: run jobs under faults, record what happened, judge it; exit code 1 if a promise was broken.

``--check FILE`` judges a history that was kept.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from deploy.programs import Missing
from protocol.entries import Assigned, Cancelled, Closed, Entry, Event, Lost, Reported, Submitted, read_entry
from protocol.errors import Failure
from protocol.messages import decode
from protocol.nats_bus import connect
from tests.faults import enclosure, plan
from tests.faults.check import violations
from tests.faults.history import Done, History, Logged, Seen, read
from tests.faults.inject import Injector
from tests.faults.leftovers import left
from tests.faults.load import Load
from tests.faults.world import World, world

SETTLE_S = 180.0
READ_S = 120.0


def main() -> int:
    """Run, judge and tell; the exit code."""
    wanted = _arguments(sys.argv[1:])
    if wanted.check:
        return _tell(read(wanted.check))
    folder = enclosure.folder_inside()
    if folder is None:
        return _outside()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(20 if wanted.verbose else 30),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    path = wanted.keep or Path(tempfile.gettempdir()) / f"shoal-faults-{wanted.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    code = 1
    try:
        history = asyncio.run(_run(wanted, folder))
        history.write(path)
        print(f"history: {path}")
        code = _tell(history)
    finally:
        if code and wanted.keep:
            for log in (*folder.glob("*.log"), *folder.glob("*/nats-server.log")):
                name = log.name if log.parent == folder else f"{log.parent.name}.log"
                shutil.copyfile(log, path.with_name(f"{path.stem}-{name}"))
    return code


def _outside() -> int:
    """What a person started: runs itself again inside, and leaves nothing."""
    try:
        return asyncio.run(enclosure.run_inside(sys.argv[1:]))
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        print("interrupted; nothing is left of it", file=sys.stderr)
        return 130


def _arguments(words: list[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--jobs", type=int, default=40, help="submit at least so many jobs")
    parser.add_argument("--faults", type=int, default=20, help="perform at least so many faults")
    parser.add_argument("--kills", type=int, default=0, help="of which so many kills")
    parser.add_argument(
        "--at-most-s", type=float, default=float("inf"), help="no more faults after so many seconds"
    )
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="the plan of faults follows from it"
    )
    parser.add_argument(
        "--kinds",
        default=",".join(plan.KINDS),
        help="kinds of faults, of kill,pause,cut; one named twice is likelier",
    )
    parser.add_argument("--at-once", type=int, default=2, help="so many faults may go on at a time")
    parser.add_argument("--pace", type=float, default=1.0, help="mean pause between faults, in seconds")
    parser.add_argument("--servers", type=int, default=3, help="NATS servers: 1, or a cluster of 3")
    parser.add_argument(
        "--also",
        default="",
        help=f"further parts, of {plan.KUBO},{plan.DOCKER}: a Kubo node, a Docker daemon of the run's own",
    )
    parser.add_argument("--requesters", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=6, help="jobs open at once")
    parser.add_argument(
        "--keep", type=Path, default=None, help="write the history there, and logs beside it on a fault"
    )
    parser.add_argument("--check", type=Path, default=None, help="judge a history that was kept; run nothing")
    parser.add_argument("--verbose", action="store_true", help="tell of each fault as it happens")
    return parser.parse_args(words)


async def _run(wanted: Any, folder: Path) -> History:
    async with world(
        folder,
        servers=wanted.servers,
        requesters=wanted.requesters,
        nodes=wanted.nodes,
        also=[each for each in wanted.also.split(",") if each],
    ) as ours:
        print("everything is up; jobs and faults begin", flush=True)
        load = Load(
            ours,
            wanted.seed,
            clients=wanted.clients,
            enough=lambda jobs: bool(jobs >= wanted.jobs and not injecting),
        )
        await load.begin()
        faults = plan.faults(wanted.seed, list(ours.parts), kinds=wanted.kinds.split(","), pace_s=wanted.pace)

        def enough(done: list[Done]) -> bool:
            late = time.monotonic() > began + wanted.at_most_s
            return late or bool(len(done) >= wanted.faults and injector.kills >= wanted.kills)

        began = time.monotonic()
        injector = Injector(ours, faults, at_once=wanted.at_once, enough=enough)
        injecting = True
        healed = time.monotonic()
        flowing = asyncio.create_task(load.run())
        telling = asyncio.create_task(_say(load, injector))
        try:
            await injector.run()
            injecting = False
            await ours.whole()
            healed = time.monotonic()
            async with asyncio.timeout(SETTLE_S):
                await asyncio.shield(flowing)
        except TimeoutError:
            print(f"still open after {SETTLE_S:g} s: {', '.join(load.open)}", flush=True)
        finally:
            for task in (flowing, telling):
                task.cancel()
            await asyncio.gather(flowing, telling, return_exceptions=True)
        history = History(wanted.seed, load.submissions, injector.done, ended=ours.ended)
        history.settled_s = round(time.monotonic() - healed, 2)
        await _collect(ours, history)
        return history


async def _say(load: Load, injector: Injector) -> None:
    while True:
        await asyncio.sleep(20)
        print(
            f"  {len(load.submissions)} submitted, {len(load.open)} open, "
            f"{len(injector.done)} faults, {injector.kills} kills",
            flush=True,
        )


async def _collect(ours: World, history: History) -> None:
    """Everything that `check` looks at, once nothing moves any more."""
    history.left = await left(ours)
    history.log = await _log(ours, history)
    history.starts = ours.started()
    history.published = ours.published()
    for event in history.log:
        if event.cid:
            history.published[event.execution] = await ours.in_ipfs(event.cid)
    jobs = list(dict.fromkeys(event.job for event in history.log))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=READ_S)) as session:
        for name, url in ours.urls.items():
            history.views[name] = {
                job: await _seen(session, f"{url}/api/v1/orchestrator/jobs/{job}") for job in jobs
            }


async def _seen(session: aiohttp.ClientSession, url: str) -> Seen:
    """A job as its watch begins: with the states of executions under our own names."""
    try:
        async with session.get(f"{url}/watch") as answer:
            if answer.status != 200:
                return Seen(f"HTTP {answer.status}")
            async for line in answer.content:
                view = decode(line, dict[str, Any])
                if "Job" in view:
                    executions = {each["ID"]: _execution(each) for each in view["Executions"]}
                    return Seen(view["Job"]["State"]["StateType"], executions)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Seen(repr(error))
    return Seen("nothing")


def _execution(view: dict[str, Any]) -> tuple[str, int, str]:
    output = view.get("RunOutput") or {}
    printed = str(output.get("Stdout", "")) + str(output.get("stderr", ""))
    return view["State"], int(output.get("ExitCode", 0)), printed


async def _log(ours: World, history: History) -> list[Logged]:
    """All events of the log, from its beginning; its snapshots are counted."""
    bus = await connect(ours.nats_urls, name="judge", role="requester", credentials=ours.judge)
    found: list[Logged] = []
    jobs: set[str] = set()
    try:
        last = (await bus.log_state()).last
        async with asyncio.timeout(READ_S), aclosing(bus.read(0)) as batches:
            async for batch in batches:
                for record in batch:
                    entry = read_entry(record.data)
                    history.snapshots += entry.snapshot is not None
                    history.cut += entry.snapshot is not None and entry.job not in jobs
                    jobs.add(entry.job)
                    found += [_flat(record.seq, entry, event) for event in entry.events]
                if batch and batch[-1].seq >= last:
                    break
    finally:
        await bus.close()
    return found


def _flat(seq: int, entry: Entry, event: Event) -> Logged:
    tag = type(event).__struct_config__.tag
    logged = Logged(seq, entry.at, entry.by, entry.job, str(tag))
    match event:
        case Submitted():
            logged.version, logged.name = event.version, event.spec.name
        case Assigned():
            logged.execution, logged.partition, logged.node = event.execution, event.partition, event.node
        case Reported():
            report = event.report
            logged.execution, logged.state = report.execution, str(report.state)
            logged.why = _why(report.failure)
            if report.result is not None and report.result.type == "ipfs":
                logged.cid = str(report.result.params["CID"])
        case Lost():
            logged.execution, logged.node, logged.why = event.execution, event.node, _why(event.failure)
        case Cancelled():
            logged.execution, logged.why = event.execution, _why(event.failure)
        case Closed():
            logged.state, logged.why = str(event.state), _why(event.failure) or event.message
    return logged


def _why(failure: Failure | None) -> str:
    return f"{failure.code}: {failure.message}" if failure is not None else ""


def _tell(history: History) -> int:
    outcomes = Counter(each.outcome for each in history.submissions)
    faults = Counter(each.kind for each in history.faults if each.reached)
    at_steps = sum(bool(each.step) and each.reached for each in history.faults)
    killed = Counter(
        each.target.partition("-")[0] for each in history.faults if each.reached and each.kind == "kill"
    )
    print(
        f"seed {history.seed}: {len(history.submissions)} submissions ({_counted(outcomes)}); {_counted(faults)}; "
        f"{at_steps} of them at a step; settled {history.settled_s:g} s after the last"
    )
    print(
        f"killed: {_counted(killed)}; {history.snapshots} snapshots in the log, begun with one: {history.cut} jobs"
    )
    found = violations(history)
    print(*(f"BROKEN: {each}" for each in found), sep="\n", end="\n" if found else "")
    print(f"{len(found)} promises broken")
    return int(bool(found))


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{times} {what}" for what, times in sorted(counts.items())) or "none"


if __name__ == "__main__":
    sys.exit(main())
