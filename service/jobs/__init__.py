"""The contract between front end and workers, kept in Redis or Valkey."""

from service.jobs.blobs import BlobConfig, BlobStore
from service.jobs.connection import ServerReport, ServerUnsuitable, cancelled, check_server, connect
from service.jobs.event_hub import EventHub
from service.jobs.messages import (
    FINAL_STATES,
    TERMINAL_EVENTS,
    BlobStoreFull,
    BlobTooLarge,
    Claim,
    Claims,
    EndedJob,
    Event,
    Gone,
    HubClosed,
    Job,
    Lagged,
    ModelLoad,
    NewJob,
    Publication,
    QueueConfig,
    QueueFull,
    QuotaFull,
    Submitted,
    UploadQuotaFull,
    WatchEnded,
)
from service.jobs.queue import Queue
from service.jobs.reader import JobHead, JobPage, ListedJob
from service.jobs.worker_cards import WorkerCards

__all__ = [
    "FINAL_STATES",
    "TERMINAL_EVENTS",
    "BlobConfig",
    "BlobStore",
    "BlobStoreFull",
    "BlobTooLarge",
    "Claim",
    "Claims",
    "EndedJob",
    "Event",
    "EventHub",
    "Gone",
    "HubClosed",
    "Job",
    "JobHead",
    "JobPage",
    "Lagged",
    "ListedJob",
    "ModelLoad",
    "NewJob",
    "Publication",
    "Queue",
    "QueueConfig",
    "QueueFull",
    "QuotaFull",
    "ServerReport",
    "ServerUnsuitable",
    "Submitted",
    "UploadQuotaFull",
    "WatchEnded",
    "WorkerCards",
    "cancelled",
    "check_server",
    "connect",
]
