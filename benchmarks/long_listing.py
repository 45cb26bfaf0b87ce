"""A bucket with more keys than anybody would fill one with: ``python -m benchmarks.long_listing KEYS`` prints its address.

Knows: the one request that lists a bucket, page by page, unsigned. Must not know: who asks. It ends when its input does.
"""

import asyncio
import sys
from typing import Final

from aiohttp import web

BUCKET: Final = "bench"
PREFIX: Final = "data/"
PAGE: Final = 1000


def page(first: int, count: int) -> str:
    """The XML of one page (ListObjectsV2), as S3 and its kin write it: keys in their order."""
    contents = "".join(
        f"<Contents><Key>{PREFIX}part-{number // PAGE:05d}/object-{number:09d}.bin</Key>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{number:032x}&quot;</ETag><Size>4096</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for number in range(first, min(first + PAGE, count))
    )
    more = first + PAGE < count
    following = f"<NextContinuationToken>{first + PAGE}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix>{PREFIX}</Prefix><IsTruncated>{str(more).lower()}</IsTruncated>"
        f"{following}{contents}</ListBucketResult>"
    )


async def serve(count: int) -> None:
    """Answer until there is no more input."""

    async def listed(request: web.Request) -> web.Response:
        first = int(request.query.get("continuation-token", "0"))
        return web.Response(text=page(first, count), content_type="application/xml")

    app = web.Application()
    app.router.add_get("/{bucket}", listed)
    app.router.add_get("/{bucket}/", listed)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
