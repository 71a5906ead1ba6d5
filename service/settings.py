"""Everything that can be configured, read from the environment (prefix `ARPG_`) and from `.env`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.jobs import BlobConfig, QueueConfig
from service.jobs.connection import is_address

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

    # Who may ask. Where there is a file of keys, and wherever more than this machine can reach the service, a key is
    # needed; beyond loopback one is made and printed where there is none.
    keys_file: Path | None = Field(None, description="`arpg keys` writes it; unset: keys.jsonl in the data folder")
    rate: int | None = Field(
        None, ge=0, description="Requests a minute, 0: no limit; unset: 600 a key, and no limit where no key is needed"
    )
    client_requests: int = Field(200, ge=1, description="Requests of a key open at once, streams too, a replica")
    session_life: float = Field(3600.0, ge=1, description="Seconds that a browser's session lasts: POST /v1/session")
    link_life: float = Field(600.0, ge=1, description="Seconds that a signed address of a picture or a stream lasts")
    signing_key: SecretStr | None = Field(
        None, min_length=16, description="Signs sessions and addresses; unset: the replicas share one in Redis"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Other sites whose pages may ask, with a key: https://a.example,https://b.example"
    )

    # Where state lives: beside the checkout, easy to find and to delete.
    data_dir: Path = Path("var")
    redis_url: SecretStr | None = Field(None, description="unset: an embedded Valkey under the data folder")
    allow_unsafe_redis: bool = Field(
        False, description="Also one that may lose what was accepted: without AOF, or one that evicts"
    )

    # The queue: the same for every process that shares it.
    namespace: str = Field("arpg", pattern=r"^[A-Za-z0-9_-]{1,40}$")
    max_queued: int = Field(1000, ge=1, description="Jobs that may wait for a model")
    lease: float = Field(15.0, gt=0, description="Seconds after which a silent worker's jobs go to another")
    hung: float = Field(180.0, gt=0, description="Seconds after which a step is taken for one that never ends")
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
    stream_life: float = Field(600.0, gt=0, description="Then an event stream asks its reader to come back")
    header_timeout: float = Field(10.0, gt=0, description="How long a connection may take to say what it wants")
    keep_alive: int = Field(
        75, ge=1, description="Seconds between two requests of a connection; proxies and clients should give up earlier"
    )
    body_timeout: float = Field(60.0, gt=0, description="How long a body may take to arrive")
    stalled_timeout: float = Field(60.0, gt=0, description="After which who takes nothing is cut off (Linux)")
    max_connections: int = Field(
        1000, ge=1, description="Open at once; for one more the one idle longest is closed, else it is not let in"
    )
    retry_after: int = Field(2, ge=1, le=120, description="What a refused client is told to wait")

    # Going away, in seconds.
    grace: float = Field(30.0, ge=0, description="How long running jobs may take to finish at shutdown")

    # The worker alone has its own port for metrics. So has the API where this is set; its own /metrics is for keys with
    # the scope `metrics` as soon as keys are needed.
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(9100, ge=0, le=65535)

    log_level: str = "info"

    @field_validator("models", "cors_origins", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return tuple(name for part in given.split(",") if (name := part.strip())) if isinstance(given, str) else given

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?", origin) for origin in given):
            raise ValueError("say each as https://name or https://name:port")
        return given

    @field_validator("redis_url")
    @classmethod
    def _parsed(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not is_address(given.get_secret_value()):
            # Never the text itself: there may be a password in it.
            raise ValueError("is no redis://, rediss:// or unix:// address; a password has to be percent-encoded")
        return given

    @property
    def keys_path(self) -> Path:
        return self.keys_file or self.data_dir / "keys.jsonl"

    @property
    def signing_secret(self) -> str | None:
        return None if self.signing_key is None else self.signing_key.get_secret_value()

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
