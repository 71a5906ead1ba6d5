"""Pictures on their way between API and worker: bytes under a name, with a budget and a time to live."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from service.jobs.lua import dump, load_script
from service.jobs.messages import BlobStoreFull, BlobTooLarge, QueueConfig, UploadQuotaFull

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobConfig:
    max_bytes: int = 512 * 2**20
    uploads_share: float = 0.5  # at most; the rest is reserved for the results of accepted jobs
    ttl_seconds: float = 300.0  # of an upload that belongs to no job yet

    @property
    def client_upload_bytes(self) -> int:
        """What one client's uploads may take when no other client has any; else less."""
        return int(self.max_bytes * self.uploads_share / 2)


class BlobStore:
    """Names are `<job>/<what>`. One script checks the budget and stores the bytes, atomically.

    A blob belongs to a job: an upload as soon as the job is submitted, a result from the start. When the job ends, its
    blobs are deleted, except those that the end says to keep as long as the job. Kept blobs use only what nothing else
    needs: when another blob does not fit, the oldest ones of the client that keeps the most bytes are deleted.

    evicted: called with the number of kept blobs that were deleted to make room.
    """

    def __init__(
        self,
        redis: Redis,
        config: QueueConfig,
        limits: BlobConfig | None = None,
        *,
        evicted: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.redis = redis
        self.prefix = config.prefix
        self._held_ms = config.held_ms
        self.limits = limits or BlobConfig()
        self._evicted = evicted
        self._put = load_script(redis, "blobs/put")
        self._delete = load_script(redis, "blobs/delete", when_full=True)

    async def put(
        self,
        name: str,
        data: bytes,
        *,
        client: str = "",
        job: tuple[str, int] | None = None,
        picture: dict[str, Any] | None = None,
    ) -> bool:
        """Stores bytes; the same name again replaces them and restarts their time to live. Raises BlobStoreFull,
        BlobTooLarge, UploadQuotaFull.

        client: that sends the upload, and whose uploads may not take all of their share; empty: not counted.
        job: the id and attempt that the blob belongs to. Returns False, and stores nothing, if the attempt has lost its
        lease. picture: for a finished picture, what later attempts of the job need to know of it, with its `index`.
        """
        limits = self.limits
        life_ms = max(1, round(limits.ttl_seconds * 1000)) if job is None else self._held_ms
        try:
            arguments_of_picture = [] if picture is None else [picture["index"], dump(picture)]
            arguments = [
                name,
                data,
                limits.max_bytes,
                limits.uploads_share,
                life_ms,
                *(job or ("", 0)),
                client,
                *arguments_of_picture,
            ]
            total, evicted, own, most = await self._put([self.prefix], arguments)
        except OutOfMemoryError as error:
            raise BlobStoreFull("the blob store's server is out of memory") from error
        if evicted:
            log.warning("the blob store was full: %d pictures of ended jobs were deleted before their time", evicted)
            self._evicted(evicted)
        if total == -3:
            raise UploadQuotaFull(own, len(data), most)
        if total == -1:
            share = f", or in the {limits.uploads_share:.0%} of it that uploads may use" if job is None else ""
            full = BlobTooLarge if len(data) > limits.max_bytes else BlobStoreFull
            raise full(f"{len(data)} bytes do not fit in the blob store's {limits.max_bytes} bytes{share}")
        return bool(total >= 0)

    async def get(self, name: str) -> bytes | None:
        return cast(bytes | None, await self.redis.get(f"{self.prefix}blob:{name}"))

    async def delete(self, name: str) -> bool:
        return bool(await self._delete([self.prefix], [name]))

    async def bytes_used(self) -> int:
        """As accounted: the next put subtracts blobs that have expired."""
        return sum((await self.bytes_by_kind()).values())

    async def bytes_by_kind(self) -> dict[str, int]:
        """`uploads` that no ended job keeps, and `pictures`: all else."""
        held = await self.redis.mget([f"{self.prefix}{name}_bytes" for name in ("blob", "upload")])
        total, uploads = (int(size or 0) for size in held)
        return {"uploads": uploads, "pictures": total - uploads}
