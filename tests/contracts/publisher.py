"""What every publisher promises, asked of each: see `storage.contract.Publisher`.

A driver's test inherits `PublisherContract`, or `ServedPublisherContract` if it needs a server, and supplies the fixtures:

==============  ==============================  ==========================================================================
publisher       ``Publisher[P]``                the driver
publish_params  ``P``                           its params
sources         ``Mapping[str, Source[Any]]``   by lower-case type: what can read the publisher's answers
away            ``Publisher[P]``                (served ones) a publisher whose server is not there
==============  ==============================  ==========================================================================

What a store cannot hold is said by class variables; the publisher must then refuse it by name instead of dropping it.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from protocol.errors import Fault, Invalid, TimedOut, Unavailable
from protocol.ids import ExecutionId, JobId, NodeId, execution_id, job_id, job_key
from protocol.jobs import Spec
from storage.archive import unpack
from storage.contract import Label, Publisher, Share, Source, silent
from storage.params import read_params
from tests.contracts.source import assert_an_offer
from tests.contracts.trees import Link, Run, Tree, plant, snapshot, with_folders

JOB: JobId = job_id(job_key("default", "publishing"), 7)
EXECUTION: ExecutionId = execution_id(JOB, 1, 0, 1)

FILES: Tree = {
    "stdout": b"hello\n",
    "exitCode": b"0",
    "empty": b"",
    "outputs/a/deep/er/file": b"x" * 70_000,
    "outputs/träume – 夢.txt": b"unicode",
    "outputs/with space & signs+%41?#": b"signs",
    "outputs/" + "n" * 200: b"long",
}


class PublisherContract:
    """The promises of any publisher."""

    archived: ClassVar[bool] = False
    """The answer's source brings one ``.tar.gz``, not the tree itself."""
    keeps_empty_folders: ClassVar[bool] = True
    keeps_links: ClassVar[bool] = True
    keeps_executable: ClassVar[bool] = True

    @pytest.fixture
    def label(self) -> Label:
        """Who publishes."""
        return Label(job=JOB, execution=EXECUTION, node=NodeId("n-publishing"), at=1_700_000_000.0)

    async def test_what_is_published_can_be_fetched_again(
        self,
        publisher: Publisher[Any],
        publish_params: Any,
        sources: Mapping[str, Source[Any]],
        label: Label,
        tmp_path: Path,
    ) -> None:
        """A result comes back byte for byte under the same names: empty files, unicode, long names, signs."""
        folder = plant(FILES, tmp_path / "result")

        spec = await publisher.publish(folder, publish_params, label, silent)

        assert with_folders(FILES) == await self._bring(spec, sources, tmp_path)

    async def test_the_rest_of_a_tree_comes_back_too(
        self,
        publisher: Publisher[Any],
        publish_params: Any,
        sources: Mapping[str, Source[Any]],
        label: Label,
        tmp_path: Path,
    ) -> None:
        """Empty folders, links as links and the executable bit come back, as far as the store can hold them."""
        tree: Tree = {"stdout": b"hello\n"}
        if self.keeps_empty_folders:
            tree["outputs/empty"] = None
        if self.keeps_links:
            tree["outputs/link"] = Link("../stdout")
        if self.keeps_executable:
            tree["outputs/tool"] = Run(b"#!/bin/sh\n")
        folder = plant(tree, tmp_path / "result")

        spec = await publisher.publish(folder, publish_params, label, silent)

        assert with_folders(tree) == await self._bring(spec, sources, tmp_path)

    async def test_a_link_is_kept_or_refused_but_never_followed(
        self,
        publisher: Publisher[Any],
        publish_params: Any,
        sources: Mapping[str, Source[Any]],
        label: Label,
        tmp_path: Path,
    ) -> None:
        """A link that leads out of the result never carries foreign bytes into it; a refusal names the link."""
        (tmp_path / "secret").write_bytes(b"not yours")
        folder = plant({"stdout": b"", "sly": Link(str(tmp_path / "secret"))}, tmp_path / "result")

        spec = refusal = None
        try:
            spec = await publisher.publish(folder, publish_params, label, silent)
        except Fault as fault:
            refusal = fault.message

        if spec is None:
            assert "sly" in (refusal or "")
        else:
            assert isinstance((await self._bring(spec, sources, tmp_path))["sly"], Link)

    async def test_what_cannot_be_stored_is_refused_by_name(
        self, publisher: Publisher[Any], publish_params: Any, label: Label, tmp_path: Path
    ) -> None:
        """A pipe in a result is refused, and does not hang or get dropped."""
        folder = plant({"stdout": b""}, tmp_path / "result")
        os.mkfifo(folder / "outpipe")

        with pytest.raises(Invalid, match="outpipe"):
            await publisher.publish(folder, publish_params, label, silent)

    async def test_publishing_again_is_harmless(
        self,
        publisher: Publisher[Any],
        publish_params: Any,
        sources: Mapping[str, Source[Any]],
        label: Label,
        tmp_path: Path,
    ) -> None:
        """The same execution published twice can be fetched by the newer answer."""
        folder = plant({"stdout": b"same"}, tmp_path / "result")

        await publisher.publish(folder, publish_params, label, silent)
        spec = await publisher.publish(folder, publish_params, label, silent)

        assert with_folders({"stdout": b"same"}) == await self._bring(spec, sources, tmp_path)

    async def test_an_empty_result_can_be_published(
        self,
        publisher: Publisher[Any],
        publish_params: Any,
        sources: Mapping[str, Source[Any]],
        label: Label,
        tmp_path: Path,
    ) -> None:
        """A program that wrote nothing has a result all the same: one empty file."""
        folder = plant({"stdout": b""}, tmp_path / "result")

        spec = await publisher.publish(folder, publish_params, label, silent)

        assert with_folders({"stdout": b""}) == await self._bring(spec, sources, tmp_path)

    async def test_the_folder_stays_as_it_was(
        self, publisher: Publisher[Any], publish_params: Any, label: Label, tmp_path: Path
    ) -> None:
        """Publishing changes nothing in the folder or beside it."""
        plant(FILES, tmp_path / "node" / "result")
        before = snapshot(tmp_path / "node")

        await publisher.publish(tmp_path / "node" / "result", publish_params, label, silent)

        assert before == snapshot(tmp_path / "node")

    async def test_a_cancelled_publishing_ends(
        self, publisher: Publisher[Any], publish_params: Any, label: Label, tmp_path: Path
    ) -> None:
        """A publishing that is cancelled ends, leaves the folder alone, and can be done again."""
        folder = plant(FILES, tmp_path / "node" / "result")
        task = asyncio.ensure_future(publisher.publish(folder, publish_params, label, silent))
        await asyncio.sleep(0)

        task.cancel()
        await asyncio.wait([task])

        assert isinstance(await publisher.publish(folder, publish_params, label, silent), Spec)
        assert [path.name for path in (tmp_path / "node").iterdir()] == ["result"]

    async def test_probing_a_publisher_never_raises(self, publisher: Publisher[Any]) -> None:
        """A probe answers with an offer of the publisher's own type."""
        assert_an_offer(await publisher.probe(), publisher.type)

    async def _bring(self, spec: Spec, sources: Mapping[str, Source[Any]], tmp_path: Path) -> Tree:
        """Fetch what a publisher answered, as a client would: resolve, fetch, unpack if it is an archive."""
        source = sources[spec.type.lower()]
        params = read_params(spec.params, source.params, f"source {spec.type}")
        resolved = await source.resolve(params, Share())
        fetched = await source.fetch(params, resolved, tmp_path / "brought", silent)
        if not self.archived:
            return snapshot(fetched.path)
        (archive,) = fetched.path.iterdir()
        assert archive.name.endswith(".tar.gz")
        await unpack(archive, tmp_path / "unpacked", silent)
        return snapshot(tmp_path / "unpacked")


class ServedPublisherContract(PublisherContract):
    """The promises of a publisher that needs a server, which may be away."""

    async def test_a_publisher_whose_server_is_away_says_so(
        self, away: Publisher[Any], publish_params: Any, label: Label, tmp_path: Path
    ) -> None:
        """Probing answers with a reason, and publishing is `Unavailable` in bounded time."""
        folder = plant({"stdout": b""}, tmp_path / "result")
        assert_an_offer(await away.probe(), away.type)

        with pytest.raises((Unavailable, TimedOut)):
            await away.publish(folder, publish_params, label, silent)
