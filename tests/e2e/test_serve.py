"""`arpg serve` as its user meets it: the API, a worker with a real model, a real Valkey; and how it leaves."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from openai import Stream
from openai.types import ImageGenStreamEvent
from PIL import Image
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics

from service.bench.cpu import descendants
from service.cli.main import main
from service.jobs import Queue, connect
from service.server.embedded import EmbeddedServer
from service.settings import Settings
from tests.api.openai.official import draws_and_edits, openai_client
from tests.deploy.dashboard import missing
from tests.support.api import frames, half_mask, noise, png, running_api
from tests.support.processes import free_port
from tests.support.serve import Server, arpg, serve_command, serving, started
from tests.support.waiting import PATIENCE, eventually


def test_from_the_first_picture_to_the_last_process(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "var"
    with serving(data, model) as server:
        client = server.client

        # A picture from one command; the same seed draws the same again, another seed another.
        def picture(seed: int) -> bytes:
            body = {"class": 1, "seed": seed, "steps": 8}
            response = client.post("/v1/generate", json=body, headers={"Accept": "image/png"})
            assert response.status_code == 200, response.text
            assert response.headers["x-seed"] == str(seed)
            return response.content

        first = picture(1)
        assert Image.open(io.BytesIO(first)).size == (16, 16)
        assert picture(1) == first
        assert picture(2) != first

        # Several pictures, followed live, every token of each told once; resumed in the middle.
        with client.stream(
            "POST", "/v1/generate", json={"class": 2, "n": 3, "steps": 16}, headers={"Accept": "text/event-stream"}
        ) as response:
            events = list(frames(response.iter_lines()))
            url = response.headers["location"]
        drawn: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for event in events:
            if event["event"] == "tokens":
                drawn[event["data"]["image_index"]] += event["data"]["positions"]
        assert [sorted(positions) for positions in drawn.values()] == [list(range(64))] * 3
        middle = events[len(events) // 2]["id"]
        resumed = client.get(f"{url}/events", headers={"Last-Event-ID": middle})
        told = [event["id"] for event in frames(iter(resumed.text.split("\n")))]
        assert told == [event["id"] for event in events[len(events) // 2 + 1 :]]

        # Inpainting a picture of the user's own: outside the mask not a bit changes.
        image, mask = noise(50, 70), half_mask(50, 70)
        response = client.post(
            "/v1/inpaint", files={"image": png(image), "mask": png(mask)}, headers={"Accept": "image/png"}
        )
        assert response.status_code == 200, response.text
        painted = np.asarray(Image.open(io.BytesIO(response.content)))
        assert np.array_equal(painted[mask == 0], image[mask == 0])
        assert not np.array_equal(painted[mask > 0], image[mask > 0])
        job = client.get(response.headers["location"]).json()
        assert job["mask_tokens"] == [[1, 1, 1, 1, 0, 0, 0, 0]] * 8
        assert job["usage"] == {"steps": 32, "tokens_drawn": 32, "tokens_known": 32}

        # One scrape tells all, once the last end is counted.
        inpainted = 'arpg_requests_total{model="random",outcome="succeeded",task="inpaint"} 1.0'
        assert eventually(lambda: inpainted in client.get("/metrics").text)
        scraped = client.get("/metrics").text
        for series in (
            'arpg_requests_total{model="random",outcome="succeeded",task="generate"} 4.0',
            'arpg_images_total{model="random"} 7.0',
            'arpg_generation_tokens_total{model="random"} 416.0',
            'arpg_kv_pages_used{model="random"} 0.0',
            'arpg_queue_depth{model="random"} 0.0',
            "process_resident_memory_bytes",
        ):
            assert series in scraped, series
        assert missing(scraped) == [], "the dashboard or a rule asks for what nothing exports"
        # Both processes in one exposition, in OpenMetrics as in the text format.
        answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,*/*;q=0.1"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        families = {family.name: family for family in open_metrics(answer.text)}
        assert [s.value for s in families["arpg_images"].samples] == [7]
        assert families["arpg_queue_workers"].samples[0].value == 1

        # OpenAI's client draws with it, is shown each part as it is drawn, and edits a picture of its own.
        with openai_client(str(client.base_url)) as official:
            draws_and_edits(official)

        # Ctrl-C while a long job runs: it may finish, its watcher sees the end, then all are gone.
        valkeys = server.valkeys()
        assert len(valkeys) >= 1
        long = client.post("/v1/generate", json={"steps": 64, "n": 16}).json()
        with client.stream("GET", long["urls"]["events"]) as response:
            watching = frames(response.iter_lines())
            assert next(e for e in watching if e["event"] == "tokens")
            server.process.send_signal(signal.SIGINT)
            with httpx.Client(base_url=client.base_url) as other:
                assert eventually(lambda: other.get("/readyz").status_code != 200), "it says it is ready, and drains"
                assert other.post("/v1/generate", json={}).json()["code"] == "draining"
            assert list(watching)[-1]["event"] == "completed"
        assert server.process.wait(PATIENCE) == 0
        assert server.valkeys() == []
        assert not any(Path(f"/proc/{pid}").exists() for pid in valkeys)

    # What was accepted outlives the process; this one is told to stop at once, before it has loaded its model.
    port = free_port()
    with started(serve_command(data, model), PORT=str(port)) as (process, stderr):
        server = Server(process, f"http://127.0.0.1:{port}", data)
        assert eventually(lambda: listens(port)), "it does not listen before its model is loaded"
        assert server.client.get("/readyz").json()["reasons"] == ["no worker is alive yet"]
        assert server.client.get(job["urls"]["self"]).json()["status"] == "succeeded"
        assert server.client.post("/v1/generate", json={}).json()["code"] == "no_worker"
        assert main(["serve", "--port", str(port)]) == 1
        assert "is in use: stop the process that listens there, or set PORT" in capfd.readouterr().err
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert server.valkeys() == []
        said = stderr.read()
        assert said.startswith(f"loading {model} …\n")
        assert "http://" not in said, "it tells its address before it can draw"


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_second_signal_stops_at_once_and_what_ran_is_not_lost(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "var"
    with serving(data, model) as server:
        jobs = [server.client.post("/v1/generate", json={"steps": 64, "n": 16}).json() for _ in range(8)]
        with server.client.stream("GET", jobs[0]["urls"]["events"]) as response:
            watching = frames(response.iter_lines())
            assert next(event for event in watching if event["event"] == "tokens")
            server.process.send_signal(signal.SIGTERM)
            with httpx.Client(base_url=server.client.base_url) as other:
                assert eventually(lambda: other.get("/readyz").status_code != 200), "the first signal does nothing"
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                end = list(watching)[-1]
        assert (end["event"], end["data"]["code"]) == ("error", "shutting_down")
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 25  # of 30 s of grace
        assert server.valkeys() == []
    with EmbeddedServer(data / "valkey") as url:
        states = asyncio.run(states_of([job["id"] for job in jobs], url))
    assert set(states) <= {"queued", "running", "succeeded"}
    assert states[-1] != "succeeded"


async def states_of(ids: list[str], url: str) -> list[str]:
    redis = connect(url)
    queue = Queue(redis, Settings(_env_file=None).queue_config)
    jobs = [await queue.job(id) for id in ids]
    await redis.aclose()
    return [job.state if job else "lost" for job in jobs]


def test_an_api_and_a_worker_of_its_own_with_two_models(redis_socket: Path, model: Path, raster: Path) -> None:
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="apart", _env_file=None)
    command = ["worker", "--model", str(model), "--model", str(raster)]
    command += ["--redis-url", f"unix://{redis_socket}", "--metrics-port", "0"]
    with (
        running_api(settings) as api,
        arpg(command, ARPG_NAMESPACE="apart", ARPG_ALLOW_UNSAFE_REDIS="1") as (process, metrics),
    ):
        assert eventually(lambda: api.client.get("/readyz").status_code == 200), "not ready in time"
        assert api.client.get("/readyz").json()["models"] == ["random", "raster"]
        for body in ({"model": "random", "steps": 4}, {"model": "raster"}):
            response = api.client.post("/v1/generate", json=body, headers={"Accept": "image/webp"})
            assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")
        counted = [f'arpg_images_total{{model="{name}"}} 1.0' for name in ("random", "raster")]
        assert eventually(lambda: all(series in httpx.get(f"{metrics}/metrics").text for series in counted))
        unnamed = api.client.post("/v1/generate", json={}).json()
        assert unnamed["detail"] == "model: name one of the models: random, raster"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        time.sleep(1.1)  # the catalogue is fresh for a second
        assert api.client.post("/v1/generate", json={"model": "raster"}).json()["code"] == "no_worker"


def test_an_api_and_a_worker_join_the_server_in_the_same_data_folder(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "var"
    folder = ["--data-dir", str(data)]
    with (
        serving(data, model) as server,
        arpg(["api", *folder], PORT="0", ARPG_ROOT_PATH="/art") as (api, url),
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        job = client.post("/v1/generate", json={"steps": 4}, headers={"Prefer": "wait=10"}).json()
        assert job["status"] == "succeeded"
        # Each tells the URLs that its own clients can use.
        own = job["urls"]["self"].removeprefix("/art")
        [image] = server.client.get(own).json()["images"]
        assert job["images"] == [image | {"url": f"/art{image['url']}"}]
        # The doctor knows the server by its port and its folder.
        assert main(["doctor", "--port", str(server.client.base_url.port), "--model", str(model), *folder]) == 0
        assert "an arpg server runs here" in capfd.readouterr().out
        # A worker gets as far as its model.
        assert main(["worker", "--model", "nobody", "--metrics-port", "0", *folder]) == 1
        assert "nobody: neither a model's name" in caplog.text
        assert main(["worker", "--model", str(model), "--device", "gpu", "--metrics-port", "0", *folder]) == 1
        assert "the worker ended: DeviceError: device: there is no device 'gpu'" in caplog.text
        assert "Traceback" not in caplog.text
        # One is killed while OpenAI's client follows a picture; the client goes on at the other one.
        [worker] = worker_processes(server.process.pid)
        os.kill(worker, signal.SIGSTOP)
        try:
            stream = follow(url)
            assert stream.response.headers["location"].startswith("/art/v1/jobs/")
            api.kill()
            with pytest.raises(openai.APIConnectionError):
                next(stream)
        finally:
            os.kill(worker, signal.SIGCONT)
        again = follow(str(server.client.base_url))
        assert again.response.headers["x-job-id"] == stream.response.headers["x-job-id"]
        assert list(again)[-1].type == "image_generation.completed"
        assert server.stop() == 0


def follow(url: str) -> Stream[ImageGenStreamEvent]:
    return openai_client(url).images.generate(
        prompt="class 2", stream=True, partial_images=1, extra_headers={"Idempotency-Key": "one"}
    )


def test_a_second_worker_on_a_host_is_told_of_the_port(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["worker", "--redis-url", "redis://127.0.0.1:1", "--metrics-port", str(port)]) == 1
    said = capfd.readouterr().err
    advice = "stop the process that listens there, or set ARPG_METRICS_PORT to another port"
    assert said == f"arpg: port {port} is in use: {advice}\n"


def test_a_model_that_is_not_there_ends_the_server_with_a_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", "nobody", "--data-dir", str(tmp_path / "var"), "--port", "0"]) == 1
    assert "nobody: neither a model's name" in capfd.readouterr().err


def test_a_worker_that_is_killed_is_replaced_and_ends_with_the_server(model: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "var", model) as server:

        def draw() -> None:
            response = server.client.post("/v1/generate", json={"steps": 4}, headers={"Accept": "image/png"})
            assert response.status_code == 200, response.text

        def counted(pictures: int) -> bool:
            return f'arpg_images_total{{model="random"}} {pictures}.0' in server.client.get("/metrics").text

        draw()
        assert eventually(lambda: counted(1))
        [killed] = worker_processes(server.process.pid)
        os.kill(killed, signal.SIGKILL)
        assert server.client.get("/healthz").status_code == 200
        draw()
        [other] = worker_processes(server.process.pid)
        assert other != killed
        assert eventually(lambda: counted(2)), "the killed worker's counts are gone"
        server.process.kill()
        assert eventually(lambda: not Path(f"/proc/{other}").exists()), "the worker outlives the server"


def worker_processes(server: int) -> list[int]:
    return [
        pid
        for pid in descendants(server)
        if pid != server and b"service.server.worker_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
