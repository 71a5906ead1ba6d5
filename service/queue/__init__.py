"""The contract between front end and workers, kept in Redis or Valkey."""

from service.queue.blobs import BlobConfig, Blobs
from service.queue.cards import Cards
from service.queue.connection import ServerReport, ServerUnsuitable, cancelled, check_server, connect
from service.queue.contract import (
    FINAL_STATES,
    TERMINAL_EVENTS,
    BlobStoreFull,
    Claim,
    Claims,
    Ended,
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
    WatchEnded,
)
from service.queue.hub import EventHub
from service.queue.verbs import Queue

__all__ = [
    "FINAL_STATES",
    "TERMINAL_EVENTS",
    "BlobConfig",
    "BlobStoreFull",
    "Blobs",
    "Cards",
    "Claim",
    "Claims",
    "Ended",
    "Event",
    "EventHub",
    "Gone",
    "HubClosed",
    "Job",
    "Lagged",
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
    "WatchEnded",
    "cancelled",
    "check_server",
    "connect",
]
