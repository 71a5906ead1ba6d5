"""Pictures between front end and worker: bytes under a name, with a budget and a time to live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from service.jobs.messages import BlobStoreFull, QueueConfig
from service.jobs.scripts import dump, load_script


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobConfig:
    max_bytes: int = 512 * 2**20
    uploads_share: float = 0.5  # of these, at most: the rest is for the pictures of the jobs that were accepted
    ttl_seconds: float = 300.0  # of what no job holds: an upload on its way to one


class BlobStore:
    """Names are `<job>/<what>`. The budget is checked where the bytes are stored, atomically.

    Bytes belong to a job: an upload from the moment it is submitted with its name, a result from the start. However
    the job ends, they are given back then, unless the end says to keep them as long as the job.
    """

    def __init__(self, redis: Redis, config: QueueConfig, limits: BlobConfig | None = None) -> None:
        self.redis = redis
        self.prefix = config.prefix
        self._held_ms = config.held_ms
        self.limits = limits or BlobConfig()
        self._put = load_script(redis, "put_blob")
        self._delete = load_script(redis, "delete_blob")

    async def put(
        self, name: str, data: bytes, *, job: tuple[str, int] | None = None, picture: dict[str, Any] | None = None
    ) -> bool:
        """Raises BlobStoreFull; the same name again replaces the bytes and starts its time anew.

        With `job` (id and attempt) they are the job's. False: another attempt has it, nothing was stored. `picture`:
        what the job's later attempts are to know of it, if these bytes are its picture of that `index`.
        """
        limits = self.limits
        life_ms = max(1, round(limits.ttl_seconds * 1000)) if job is None else self._held_ms
        try:
            noted = [] if picture is None else [picture["index"], dump(picture)]
            arguments = [name, data, limits.max_bytes, limits.uploads_share, life_ms, *(job or ("", 0)), *noted]
            total = await self._put([self.prefix], arguments)
        except OutOfMemoryError as error:
            raise BlobStoreFull("the blob store's server is out of memory") from error
        if total == -1:
            share = f" or the {limits.uploads_share:.0%} of it that are for uploads" if job is None else ""
            raise BlobStoreFull(f"{len(data)} bytes do not fit the blob store's {limits.max_bytes}{share}")
        return bool(total >= 0)

    async def get(self, name: str) -> bytes | None:
        return cast(bytes | None, await self.redis.get(f"{self.prefix}blob:{name}"))

    async def delete(self, name: str) -> bool:
        return bool(await self._delete([self.prefix], [name]))

    async def bytes_used(self) -> int:
        """As accounted; bytes past their time leave the account at the next put."""
        return int(await self.redis.get(f"{self.prefix}blob_bytes") or 0)
