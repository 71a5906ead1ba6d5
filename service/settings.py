"""Everything that can be configured, read from the environment (prefix `ARPG_`) and from `.env`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.queue import BlobConfig, QueueConfig

MEBIBYTE = 2**20


class Settings(BaseSettings):
    """Settings of every process: the API, the worker, and both in one."""

    model_config = SettingsConfigDict(
        env_prefix="ARPG_", env_file=".env", extra="ignore", populate_by_name=True, frozen=True
    )

    # Where to listen. The plain names are what hosting platforms set.
    host: str = Field("127.0.0.1", validation_alias=AliasChoices("ARPG_HOST", "HOST"))
    port: int = Field(8000, ge=0, le=65535, validation_alias=AliasChoices("ARPG_PORT", "PORT"))
    root_path: str = Field(
        "", pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="The path a proxy strips before it forwards a request: /art"
    )

    # What to serve.
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("demo",), min_length=1, description="Shipped models' names or paths of model folders, with commas between"
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1 …; unset: the GPU when there is one")
    batch_invariant: bool = False

    # Where state lives: beside the checkout, easy to find and to delete.
    data_dir: Path = Path("var")
    redis_url: SecretStr | None = Field(None, description="unset: an embedded Valkey under the data folder")

    # The queue: the same for every process that shares it.
    namespace: str = Field("arpg", pattern=r"^[A-Za-z0-9_-]{1,40}$")
    max_queued: int = Field(1000, ge=1, description="Jobs that may wait for a model")
    lease: float = Field(15.0, gt=0, description="Seconds after which a silent worker's jobs go to another")
    result_ttl: float = Field(3600.0, gt=0, description="Seconds that a job outlives its end")
    blob_bytes: int = Field(512 * MEBIBYTE, ge=MEBIBYTE, description="Uploads and pictures kept in Redis")

    # Uploads.
    max_body_bytes: int = Field(24 * MEBIBYTE, ge=1024)
    max_pixels: int = Field(4096 * 4096, ge=1, le=80_000_000, description="Pixels an upload may have")
    max_side: int = Field(8192, ge=1, description="Pixels an upload's longer side may have")

    # Waiting and watching, in seconds.
    max_wait: float = Field(60.0, gt=0, description="The longest `Prefer: wait=` that is honoured")
    picture_wait: float = Field(120.0, gt=0, description="How long a POST that accepts only a picture waits")
    heartbeat: float = Field(10.0, gt=0)
    retry_after: int = Field(2, ge=1, le=120, description="What a refused client is told to wait")

    # Going away, in seconds.
    grace: float = Field(30.0, ge=0, description="How long running jobs may take to finish at shutdown")

    # The worker alone has its own port for metrics.
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(9100, ge=0, le=65535)

    log_level: str = "info"

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return tuple(name for part in given.split(",") if (name := part.strip())) if isinstance(given, str) else given

    @property
    def queue_config(self) -> QueueConfig:
        return QueueConfig(
            namespace=self.namespace,
            max_queued=self.max_queued,
            lease_seconds=self.lease,
            result_ttl_seconds=self.result_ttl,
        )

    @property
    def blob_config(self) -> BlobConfig:
        return BlobConfig(max_bytes=self.blob_bytes)

    @property
    def redis_address(self) -> str | None:
        """The Redis URL with its password, for the client only."""
        return None if self.redis_url is None else self.redis_url.get_secret_value()
