"""Draws samples through a running server: as jobs, which its queue shares out among its workers."""

from __future__ import annotations

import io
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from engine.card import ClassLabel, Defaults, ModelCard
from engine.evaluation.adm.sample_set import SampleSet
from engine.evaluation.adm.sample_spec import Batch, SampleError, SampleSpec
from service.client import Client, ExpiredError, JobCanceledError, JobFailedError, Model, NotFoundError
from service.tasks.pictures import recipe
from service.tasks.pictures.recipe import Recipe, RecipeError

ATTEMPTS = 5
"""At the pictures of one job."""
REPEATS = 300
"""Of a request that the server has no room for, or that it did not answer: ten minutes at the least."""

Say = Callable[[str], None]


def open_client(server: str, key: str | None, *, repeats: int = REPEATS) -> Client:
    """Raises SampleError."""
    try:
        return Client(server, api_key=key, max_retries=repeats, max_reconnects=repeats)
    except ValueError as error:
        raise SampleError(f"--server: {error}") from error


def served_card(client: Client, name: str, settings: Mapping[str, Any]) -> ModelCard:
    """The card of a model that the server serves, with the fingerprints of its weights: a picture that is drawn for
    this tells them. settings: with which to draw it. Raises SampleError, APIError."""
    models = {model.id: model for model in client.models()}
    if name not in models:
        raise SampleError(f"model: the server does not serve {name}; it serves {', '.join(sorted(models)) or 'none'}")
    model = models[name]
    if model.conditioning != "class" or model.classes == 0:
        return _card(model)
    job = client.wait(client.generate(model=name, class_=0, n=1, seed=0, **_sent(settings)))
    drawn = _recipe(client.picture(job, format="png"))
    return _card(model, drawn.weights, drawn.tokenizer)


def draw(client: Client, samples: SampleSet, at_once: int, progress: Callable[[], None], say: Say) -> None:
    """Draws what is missing, with at most `at_once` jobs in the queue. progress is called after each shard. A failed
    job is told and sent again. Raises SampleError when one fails too often, and APIError."""
    batches = [batch for shard in samples.missing() for batch in samples.spec.shard(shard)]
    left, lock = iter(batches), threading.Lock()
    answers: queue.SimpleQueue[tuple[Batch, list[np.ndarray]] | BaseException] = queue.SimpleQueue()

    def following() -> Iterator[Batch]:
        while True:
            with lock:
                batch = next(left, None)
            if batch is None:
                return
            yield batch

    def work() -> None:
        try:
            for batch in following():
                answers.put((batch, _pictures(client, samples.spec, batch, say)))
        except BaseException as error:
            answers.put(error)

    # Daemons: a run that ends early does not wait for its jobs. The next run finds them by their idempotency keys.
    for _ in range(min(at_once, len(batches))):
        threading.Thread(target=work, daemon=True).start()
    for _ in batches:
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        if samples.add(*answer):
            progress()


def _pictures(client: Client, spec: SampleSpec, batch: Batch, say: Say) -> list[np.ndarray]:
    key, reasons = f"adm-{spec.digest}-{batch.index}", list[str]()
    while len(reasons) < ATTEMPTS:
        try:
            job = client.wait(
                client.generate(
                    model=spec.model,
                    class_=batch.label,
                    n=batch.count,
                    seed=batch.seed,
                    format="png",
                    idempotency_key=key,
                    **_sent(spec.settings),
                )
            )
            return [
                _checked(client.picture(job, index, format="png"), spec, batch, seed)
                for index, seed in enumerate(batch.seeds)
            ]
        except (JobFailedError, JobCanceledError, ExpiredError, NotFoundError) as error:
            # The same key would bring the same job.
            key = f"adm-{spec.digest}-{batch.index}-{uuid.uuid4().hex}"
            reasons.append(str(error))
            say(f"batch {batch.index}: {error}; drawing it again")
    raise SampleError(f"batch {batch.index} of {spec.batches} failed {ATTEMPTS} times, last: {reasons[-1]}")


def _checked(png: bytes, spec: SampleSpec, batch: Batch, seed: int) -> np.ndarray:
    """The pixels, uint8 (H, W, 3). Raises SampleError when it is another picture, such as one of new weights that a
    worker was started with meanwhile."""
    drawn = _recipe(png)
    told = {"weights": drawn.weights, "tokenizer": drawn.tokenizer, "class": drawn.class_label, "seed": drawn.seed}
    meant = {"weights": spec.weights, "tokenizer": spec.tokenizer, "class": batch.label, "seed": seed}
    if told != meant:
        wrong = "; ".join(
            f"{name}: {told[name]}, expected {meant[name]}" for name in meant if told[name] != meant[name]
        )
        raise SampleError(f"the server drew another picture ({wrong}); serve the model that the samples began with")
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB"))


def _recipe(png: bytes) -> Recipe:
    try:
        return recipe.read(recipe.text_of(png))
    except RecipeError as error:
        raise SampleError(f"a picture of the server can't be checked: {error}") from error


def _sent(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _card(model: Model, weights: str = "", tokenizer: str = "") -> ModelCard:
    return ModelCard(
        name=model.id,
        family=model.family,
        grid=model.grid,
        stride=model.width // model.grid[1],
        codebook_size=model.codebook_size,
        classes=tuple(ClassLabel(label, str(label)) for label in range(model.classes)),
        tasks=model.tasks,
        defaults=Defaults(**model.defaults),
        task_defaults=model.task_defaults,
        settings=model.settings,
        conditioning=model.conditioning,
        steps=model.steps,
        weights=weights,
        tokenizer=tokenizer,
    )
