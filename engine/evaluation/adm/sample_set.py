"""A folder of drawn pictures. They are stored in shards, so that a run that was stopped goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.evaluation.adm.npz import write_pictures
from engine.evaluation.adm.sample_spec import BATCH, SHARD, Batch, SampleError, SampleSpec

SPEC, SHARDS, NPZ, LOCK = "spec.json", "shards", "samples.npz", "lock"


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Nothing else draws into the folder meanwhile. The lock ends with the process. Raises SampleError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SampleError(
                f"--out: another run draws into {folder}; wait for it, or choose another folder"
            ) from None
        yield


class SampleSet:
    """The folder: the spec, the shards, and at the end the .npz file."""

    def __init__(self, folder: Path, spec: SampleSpec) -> None:
        """Makes the folder, or goes on in it. Raises SampleError when it holds other samples."""
        self.folder = folder
        self.spec = spec
        self._arrived: dict[int, dict[int, np.ndarray]] = {}
        path = folder / SPEC
        if path.exists():
            try:
                there = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise SampleError(f"--out: {path} can't be read ({error}); choose another folder") from error
            if differences := spec.differences(there):
                raise SampleError(
                    f"--out: {folder} holds other samples ({'; '.join(differences)}); repeat that command to "
                    "go on with them, or choose another folder"
                )
        else:
            (folder / SHARDS).mkdir(parents=True, exist_ok=True)
            _replace(path, json.dumps(spec.to_json(), indent=1).encode())

    @property
    def npz(self) -> Path:
        return self.folder / NPZ

    @property
    def stored(self) -> int:
        """Pictures in complete shards."""
        return sum(
            batch.count
            for index in range(self.spec.shards)
            if self._path(index).exists()
            for batch in self.spec.shard(index)
        )

    def missing(self) -> list[int]:
        """The shards that are not stored."""
        return [index for index in range(self.spec.shards) if not self._path(index).exists()]

    def add(self, batch: Batch, pictures: Sequence[np.ndarray]) -> bool:
        """Takes the pictures of a batch, uint8 (H, W, 3) as drawn, in any order of the batches. A shard is stored when
        it is complete: then returns True. Raises SampleError."""
        if len(pictures) != batch.count or any(picture.shape != (*self.spec.drawn_size, 3) for picture in pictures):
            shapes = ", ".join(sorted({str(picture.shape) for picture in pictures}))
            height, width = self.spec.drawn_size
            raise SampleError(
                f"batch {batch.index} came as {len(pictures)} pictures of {shapes}; expected {batch.count} of "
                f"({height}, {width}, 3)"
            )
        shard = batch.index // SHARD
        arrived = self._arrived.setdefault(shard, {})
        arrived[batch.index] = self._stored_size(np.stack(pictures))
        batches = self.spec.shard(shard)
        if len(arrived) < len(batches):
            return False
        del self._arrived[shard]
        _replace(self._path(shard), np.concatenate([arrived[one.index] for one in batches]))
        return True

    def pictures(self) -> Iterator[np.ndarray]:
        """All pictures, uint8 (H, W, 3), in the order of the .npz file: one of each class, then the next of each. The
        Inception Score is a mean over parts of 5,000 in this order, which must have all classes. Raises SampleError
        when some are not drawn yet."""
        self._check_complete()
        shards = [np.load(self._path(index), mmap_mode="r") for index in range(self.spec.shards)]
        starts = [_starts(self.spec.shard(index)) for index in range(self.spec.shards)]
        for picture in range(self.spec.each):
            part, offset = divmod(picture, BATCH)
            for place in range(len(self.spec.labels)):
                shard, batch = divmod(place * self.spec.batches_each + part, SHARD)
                yield np.asarray(shards[shard][starts[shard][batch] + offset])

    def write_npz(self) -> Path:
        """Writes the file that ADM's evaluation suite reads, unless it is there. Raises SampleError when
        some pictures are not drawn yet."""
        if not self.npz.exists():
            self._check_complete()
            partial = _partial(self.npz)
            write_pictures(partial, self.pictures(), (self.spec.count, *self.spec.size, 3))
            partial.replace(self.npz)
        return self.npz

    def _check_complete(self) -> None:
        if missing := self.missing():
            raise SampleError(
                f"{self.folder}: {len(missing)} of {self.spec.shards} shards are missing; draw them first"
            )

    def _path(self, shard: int) -> Path:
        return self.folder / SHARDS / f"{shard:05d}.npy"

    def _stored_size(self, pictures: np.ndarray) -> np.ndarray:
        if self.spec.size == self.spec.drawn_size:
            return pictures
        from engine.evaluation.adm.resizing import resize

        return resize(pictures, self.spec.size)


def _starts(batches: Sequence[Batch]) -> list[int]:
    return [sum(batch.count for batch in batches[:index]) for index in range(len(batches))]


def _partial(path: Path) -> Path:
    """A run that was killed left it, and the next one writes it anew."""
    return path.with_name(f"{path.name}.partial")


def _replace(path: Path, content: bytes | np.ndarray) -> None:
    """The file is complete or not there, also after a crash of the machine."""
    partial = _partial(path)
    with partial.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            np.save(file, content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
