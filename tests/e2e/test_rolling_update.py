"""A rolling update: two versions of the service share one queue, each draws its own jobs, and none is lost."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.jobs.spec import SPEC_VERSION
from service.settings import Settings
from tests.support.api import running_api
from tests.support.processes import REPOSITORY
from tests.support.serve import arpg
from tests.support.waiting import PATIENCE, eventually

REQUEST = {"class": 1, "steps": 32, "n": 2}


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """A copy of the service that writes and reads the next version of the job spec. The engine is the repository's:
    its functions are compiled already."""
    folder = tmp_path / "next"
    shutil.copytree(REPOSITORY / "service", folder / "service", ignore=shutil.ignore_patterns("__pycache__"))
    spec = folder / "service" / "jobs" / "spec.py"
    literal, then = f"Literal[{SPEC_VERSION}]", SPEC_VERSION + 1
    text = spec.read_text().replace(f"{literal} = {SPEC_VERSION}", f"Literal[{then}] = {then}")
    spec.write_text(text.replace(literal, f"Literal[{then}]"))
    return folder


def test_two_versions_on_one_queue_lose_no_job(redis_socket: Path, model: Path, next_version: Path) -> None:
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="rolling", _env_file=None)
    shared = {"ARPG_NAMESPACE": "rolling", "ARPG_ALLOW_UNSAFE_REDIS": "1", "PYTHONPATH": str(REPOSITORY)}
    redis = ["--redis-url", f"unix://{redis_socket}"]
    worker = ["worker", "--model", str(model), *redis, "--metrics-port", "0"]
    with (
        running_api(settings) as old,
        arpg(worker, **shared) as (old_worker, _),
        arpg(["api", *redis], next_version, PORT="0", **shared) as (_, url),
        httpx.Client(base_url=url, timeout=PATIENCE) as new,
    ):

        def submit(client: httpx.Client, seed: int) -> str:
            response = client.post("/v1/generate", json=REQUEST | {"seed": seed})
            assert response.status_code == 202, response.text
            path: str = response.json()["urls"]["self"]
            return path

        def drawn(client: httpx.Client, path: str) -> dict[str, Any]:
            assert eventually(lambda: client.get(path).json()["status"] in ("succeeded", "failed")), path
            job: dict[str, Any] = client.get(path).json()
            return job

        assert eventually(lambda: old.client.get("/readyz").status_code == 200), "not ready in time"
        olds = [submit(old.client, seed) for seed in range(3)]
        # The next version accepts no job before one of its own workers is there, and tells whose a job is.
        refused = new.post("/v1/generate", json=REQUEST)
        assert (refused.status_code, refused.json()["code"]) == (503, "no_worker")
        asked = new.get(olds[-1])
        assert (asked.status_code, asked.json()["code"]) == (409, "unsupported_job_version")
        with arpg(worker, next_version, **shared):
            assert eventually(lambda: new.get("/readyz").status_code == 200), "not ready in time"
            news: list[str] = []
            for seed in range(3):  # in turn: each worker finds jobs of both versions
                news.append(submit(new, seed))
                olds.append(submit(old.client, 3 + seed))
            for client, paths in ((old.client, olds), (new, news)):
                for job in [drawn(client, path) for path in paths]:
                    assert (job["status"], len(job["images"]), job["error"]) == ("succeeded", REQUEST["n"], None)
            old_worker.send_signal(signal.SIGTERM)
            assert old_worker.wait(PATIENCE) == 0
            assert eventually(lambda: old.client.post("/v1/generate", json=REQUEST).status_code == 503)
            assert drawn(new, submit(new, 3))["status"] == "succeeded"
            # The same picture by either version.
            first = [client.get(f"{paths[0]}/images/0").content for client, paths in ((old.client, olds), (new, news))]
            assert first[0] == first[1]


def test_the_copy_differs_in_the_version_alone(next_version: Path) -> None:
    changed = (next_version / "service" / "jobs" / "spec.py").read_text()
    assert re.findall(r"Literal\[(\d+)\]", changed) == [str(SPEC_VERSION + 1)] * 2
