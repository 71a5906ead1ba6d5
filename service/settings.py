"""All settings, read from the environment (prefix `ARPG_`) and from a file `.env`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import logs
from service.jobs import BlobConfig, QueueConfig
from service.jobs.connection import is_address
from service.jobs.webhooks.hosts import WebhookHosts
from service.logs import LogFormat

MEBIBYTE = 2**20


PREFIX = "ARPG_"
CLIENTS = frozenset({"ARPG_API_KEY", "ARPG_BENCH_KEY", "ARPG_KEY"})
"""Variables that clients and examples read."""


class Settings(BaseSettings):
    """The settings of every process: the API, the worker, or both in one."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", populate_by_name=True, frozen=True
    )

    # Where to listen. HOST and PORT are the names that hosting platforms set.
    host: str = Field(
        "127.0.0.1", validation_alias=AliasChoices("ARPG_HOST", "HOST"), description="The address to listen on"
    )
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("ARPG_PORT", "PORT"),
        description="The port to listen on; 0: a free one",
    )
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="The path that a proxy strips before it forwards a request, such as /art",
    )

    # What to serve.
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("demo-text",), min_length=1, description="Names of models or paths of model folders, separated by commas"
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="Precision of the network; unset: bfloat16 on a GPU, float32 on a CPU. Pictures differ"
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1 …; unset: the GPU if there is one, else the CPU")
    batch_invariant: bool = Field(
        False, description="On a CPU, draw the same bits whichever requests share a step; slower"
    )

    # Keys and browsers. A key is needed if the file of keys exists, or if other machines can reach the server; in the
    # second case the server makes and prints a key if there is none.
    keys_file: Path | None = Field(None, description="Written by `arpg keys`; unset: keys.jsonl in the data folder")
    rate: int | None = Field(
        None, ge=0, description="Requests a minute; 0: no limit; unset: 600 for each key, no limit without keys"
    )
    client_requests: int = Field(
        200, ge=1, description="Requests of one key open at once on one replica, event streams included"
    )
    session_life: float = Field(3600.0, ge=1, description="Seconds that a browser session lasts (POST /v1/session)")
    link_life: float = Field(
        600.0, ge=1, description="Seconds that a signed address of a picture or an event stream is valid"
    )
    signing_key: SecretStr | None = Field(
        None, min_length=16, description="Signs sessions and addresses; unset: the replicas share a random one in Redis"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Other sites whose pages may send requests, with a key: https://a.example,https://b.example"
    )

    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts that webhooks may call: hooks.example.com,*.example.org,http://10.0.0.5:9000 (https unless "
        "it says http). A private address must be listed, itself or by its network: 10.0.0.0/8. Unset: no webhooks",
    )

    # State. The default folder is in the working directory, where it is easy to find and to delete.
    data_dir: Path = Field(Path("var"), description="Holds the embedded Valkey's data and the file of keys")
    redis_url: SecretStr | None = Field(
        None, description="redis://, rediss:// or unix://; unset: an embedded Valkey in the data folder"
    )
    allow_unsafe_redis: bool = Field(
        False, description="Accept a Redis that may lose accepted jobs (without AOF, or evicting) or is too small"
    )

    # The queue. Processes that share it need the same values.
    namespace: str = Field(
        "arpg", pattern=r"^[A-Za-z0-9_-]{1,40}$", description="Begins the names of all keys in Redis"
    )
    max_queued: int = Field(1000, ge=1, description="Jobs that may wait for one model")
    lease: float = Field(
        15.0, gt=0, description="Seconds without a heartbeat after which a worker's jobs go to another worker"
    )
    hung: float = Field(180.0, gt=0, description="Seconds after which the worker treats an engine step as hung")
    result_ttl: float = Field(3600.0, gt=0, description="Seconds that a job and its pictures are kept after its end")
    blob_bytes: int = Field(512 * MEBIBYTE, ge=MEBIBYTE, description="Bytes of uploads and pictures kept in Redis")

    # Uploads.
    max_body_bytes: int = Field(24 * MEBIBYTE, ge=1024, description="Bytes that the body of a request may have")
    max_pixels: int = Field(4096 * 4096, ge=1, le=80_000_000, description="Pixels that an upload may have")
    max_side: int = Field(8192, ge=1, description="Pixels that the longer side of an upload may have")
    decode_processes: int = Field(2, ge=1, le=64, description="Processes that decode uploads, on each replica")
    decode_seconds: float = Field(
        2.0, gt=0, description="Seconds of processor time in which an uploaded picture must be decoded"
    )

    # Pictures in a worker.
    picture_memory: int = Field(
        512 * MEBIBYTE, ge=MEBIBYTE, description="Bytes for the large pictures that are read, composited or written now"
    )
    unstored_pixels: int = Field(
        2**26,
        ge=1,
        description="Pixels of the pictures of one model that a worker has claimed and not stored; of one client: half",
    )

    # Connections and waiting, in seconds.
    max_wait: float = Field(60.0, gt=0, description="Seconds: the upper limit of `Prefer: wait=`")
    picture_wait: float = Field(120.0, gt=0, description="Seconds that a POST that accepts only a picture waits for it")
    heartbeat: float = Field(10.0, gt=0, description="Seconds between two heartbeats of an event stream")
    stream_life: float = Field(
        600.0, gt=0, description="Seconds after which an event stream tells its reader to reconnect"
    )
    header_timeout: float = Field(10.0, gt=0, description="Seconds in which the head of a request must arrive")
    keep_alive: int = Field(
        75, ge=1, description="Seconds that a connection may be idle between requests; proxies should close earlier"
    )
    body_timeout: float = Field(60.0, gt=0, description="Seconds in which the body of a request must arrive")
    stalled_timeout: float = Field(
        60.0, gt=0, description="Seconds after which a peer that stopped reading is dropped (TCP_USER_TIMEOUT, Linux)"
    )
    max_connections: int = Field(
        1000, ge=1, description="Open connections; over it the longest-idle one is closed, or the new one rejected"
    )
    retry_after: int = Field(2, ge=1, le=120, description="Seconds that Retry-After tells a rejected client to wait")

    # Shutdown, in seconds.
    grace: float = Field(30.0, ge=0, description="Seconds that running jobs may take to finish at shutdown")

    # `arpg worker` serves its metrics on this port. The API does too if the port is set explicitly; on its main port,
    # /metrics needs a key with the scope `metrics` as soon as keys are needed.
    metrics_host: str = Field("127.0.0.1", description="The address on which that port listens")
    metrics_port: int = Field(
        9100,
        ge=0,
        le=65535,
        description="A port for /metrics alone, without a key: of workers always, of the API if set",
    )

    log_level: str = Field("info", description="debug, info, warning or error: the least severe messages to log")
    log_format: LogFormat = Field(
        "text", description="json: one JSON object a line, with a line for each request and each job"
    )

    @field_validator("models", "cors_origins", "webhook_hosts", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return tuple(name for part in given.split(",") if (name := part.strip())) if isinstance(given, str) else given

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?", origin) for origin in given):
            raise ValueError("each origin must have the form https://name or https://name:port")
        return given

    @field_validator("webhook_hosts")
    @classmethod
    def _hosts(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        WebhookHosts(given)
        return given

    @field_validator("redis_url")
    @classmethod
    def _parsed(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not is_address(given.get_secret_value()):
            # The message leaves out the URL, which may contain a password.
            raise ValueError("must be a redis://, rediss:// or unix:// URL, with a percent-encoded password")
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


def unknown_variables(given: Iterable[str]) -> dict[str, str | None]:
    """Variables of the environment that begin like settings and are none, and the setting that resembles each."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    unknown = (name for name in given if name.upper().startswith(PREFIX) and name.upper() not in known | CLIENTS)
    near = {name: get_close_matches(name.upper(), known, n=1, cutoff=0.75) for name in unknown}
    return {name: names[0] if names else None for name, names in near.items()}


def set_up_logging(settings: Settings) -> None:
    logs.set_up(settings.log_level, settings.log_format)
