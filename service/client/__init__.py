"""A client of the service in Python: `Client`, and `AsyncClient` with the same methods.

```python
from service.client import Client

with Client("http://127.0.0.1:8000") as client:
    job = client.wait(client.generate(class_="mushroom", seed=7))
    client.save(job, "mushroom.png")
```

It imports httpx and nothing of the server (`pip install '.[client]'` in a checkout).
"""

from service.client.async_client import AsyncClient
from service.client.calls import File, Source
from service.client.client import Client
from service.client.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    BadRequestError,
    ConflictError,
    ExpiredError,
    FieldError,
    ForbiddenError,
    NotFoundError,
    ServerError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from service.client.events import Canceled, Completed, Event, Failed, Preview, Queued, Started, Tokens
from service.client.jobs import Image, Job, JobCanceledError, JobError, JobFailedError, JobWarning, Model, Palette

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "AsyncClient",
    "BadRequestError",
    "Canceled",
    "Client",
    "Completed",
    "ConflictError",
    "Event",
    "ExpiredError",
    "Failed",
    "FieldError",
    "File",
    "ForbiddenError",
    "Image",
    "Job",
    "JobCanceledError",
    "JobError",
    "JobFailedError",
    "JobWarning",
    "Model",
    "NotFoundError",
    "Palette",
    "Preview",
    "Queued",
    "ServerError",
    "Source",
    "Started",
    "Tokens",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnavailableError",
]
