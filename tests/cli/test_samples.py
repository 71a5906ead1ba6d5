"""`arpg evaluate samples`: the same pictures from an engine and from a server's queue, in one run and in several."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.evaluation.adm.sample_set import SampleSet
from engine.evaluation.adm.sample_spec import SampleError, SampleSpec
from service.cli.main import main
from service.cli.samples import through_server
from service.client import Client, Job
from tests.evaluation.adm.random_inception import write_random_inception
from tests.support.processes import die_with_parent
from tests.support.serve import serving
from tests.support.tiny import random_folder
from tests.support.waiting import eventually

CLASSES = 40
SETTINGS = ("--count", str(2 * CLASSES), "--steps", "3", "--guidance-scale", "2.5", "--seed", "9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), num_classes=CLASSES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("var"), folder) as running:
        yield str(running.client.base_url)


def samples(model: Path | str, out: Path, *more: str) -> int:
    return main(["evaluate", "samples", str(model), "--out", str(out), *SETTINGS, *more])


def pictures(out: Path) -> np.ndarray:
    with np.load(out / "samples.npz") as file:
        found: np.ndarray = file["arr_0"]
    return found


def test_a_killed_run_over_a_server_goes_on_and_has_the_pictures_of_an_engine_here(
    folder: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over, here = tmp_path / "over", tmp_path / "here"
    command = ["evaluate", "samples", "random", "--out", str(over), *SETTINGS, "--server", server, "--at-once", "2"]
    process = subprocess.Popen([sys.executable, "-m", "service.cli", *command], preexec_fn=die_with_parent)
    try:
        assert eventually(lambda: (over / "shards/00000.npy").exists() or process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    stored = sorted(path.name for path in (over / "shards").glob("*.npy"))
    assert 1 <= len(stored) < 8
    assert not (over / "samples.npz").exists()
    times = {name: (over / "shards" / name).stat().st_mtime_ns for name in stored}

    assert samples("random", over, "--server", server) == 0
    assert "going on: " in capsys.readouterr().err
    assert {name: (over / "shards" / name).stat().st_mtime_ns for name in stored} == times
    assert samples(folder, here, "--device", "cpu") == 0
    found = pictures(here)
    assert (found.shape, found.dtype) == ((2 * CLASSES, 16, 16, 3), np.uint8)
    assert np.array_equal(found, pictures(over))
    assert len(np.unique(found.reshape(len(found), -1), axis=0)) == len(found)
    assert (here / "spec.json").read_text() == (over / "spec.json").read_text()


def test_other_settings_are_refused_and_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert samples(folder, tmp_path) == 0
    before = pictures(tmp_path)
    assert samples(folder, tmp_path, "--top-k", "5") == 1
    assert "holds other samples (top_k: 0 there, 5 now)" in capsys.readouterr().err
    assert np.array_equal(pictures(tmp_path), before)


def chosen(server: str, **fields: Any) -> SampleSpec:
    settings = {"steps": 64, "guidance_scale": 1.0}
    with through_server.open_client(server, None) as client:
        card = through_server.served_card(client, "random", settings)
    return replace(SampleSpec.of(card, CLASSES, 1, settings, None), **fields)


class Canceller(Client):
    """Cancels the first jobs that it sends."""

    cancelled = 0
    most = 1

    def generate(self, **fields: Any) -> Job:
        job = super().generate(**fields)
        if self.cancelled < self.most:
            self.cancelled += 1
            return self.cancel(job)
        return job


def test_a_job_that_ends_without_pictures_is_told_and_sent_again(server: str, tmp_path: Path) -> None:
    drawn, said = SampleSet(tmp_path, chosen(server)), list[str]()
    with Canceller(server) as client:
        through_server.draw(client, drawn, 1, lambda: None, said.append)
    assert drawn.stored == CLASSES
    assert len(said) == 1
    assert said[0].startswith("batch 0: job ")
    assert "was cancelled; drawing it again" in said[0]


def test_a_batch_that_fails_each_time_ends_the_run_by_its_name(server: str, tmp_path: Path) -> None:
    drawn, said = SampleSet(tmp_path, chosen(server, seed=2)), list[str]()
    with Canceller(server) as client:
        client.most = through_server.ATTEMPTS
        with pytest.raises(SampleError, match="batch 0 of 40 failed 5 times, last: job"):
            through_server.draw(client, drawn, 1, lambda: None, said.append)
    assert len(said) == through_server.ATTEMPTS


@pytest.mark.parametrize("field", ["weights", "tokenizer"])
def test_pictures_of_other_weights_are_refused(server: str, tmp_path: Path, field: str) -> None:
    drawn = SampleSet(tmp_path, chosen(server, **{field: "0123"}))
    with Client(server) as client, pytest.raises(SampleError, match=f"another picture \\({field}: .*, expected 0123"):
        through_server.draw(client, drawn, 1, lambda: None, lambda _: None)
    assert drawn.stored == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("other", "--server", "{server}"), "model: the server does not serve other; it serves random"),
        (("random", "--server", "nowhere"), "--server: base_url"),
        (("{folder}", "--count", "50"), "--count: must be a multiple of the model's 40 classes, such as 40 or 80"),
        (("{folder}", "--paper", "arpg-l-256"), "--paper: these settings are for arpg-l, and the model is random"),
        (("{folder}", "--inception", "{folder}/model.json", "--reference", "{folder}/no.npz"), "no.npz"),
    ],
)
def test_what_can_not_be_drawn_is_said_in_a_line(
    folder: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    given = [argument.format(server=server, folder=folder) for argument in arguments]
    assert main(["evaluate", "samples", *given, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--steps", "0"), "argument --steps"),
        (("--reference", "file.npz"), "--reference and --inception are needed together"),
        (("--paper", "other"), "invalid choice: 'other'"),
        (("--at-once", "0"), "argument --at-once: must be a whole number between 1 and"),
        (("--at-once", "x"), "argument --at-once: must be a whole number between 1 and"),
        (("--serv", "http://h"), "unrecognized arguments: --serv"),
    ],
)
def test_wrong_options_end_with_status_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "samples", "demo", *arguments])
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_figures_are_printed_and_stored(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "reference.npz", arr_0=noise)
    weights = write_random_inception(tmp_path / "inception.pth")
    files = ("--reference", str(tmp_path / "reference.npz"), "--inception", str(weights))
    assert samples(folder, tmp_path / "out", *files, "--count", str(CLASSES)) == 0
    printed = capsys.readouterr().out
    assert "| | FID | IS | precision | recall |" in printed
    assert f"| {CLASSES} samples | " in printed
    assert "50,000 in the papers" in printed
    figures = json.loads((tmp_path / "out/figures.json").read_text())
    assert figures["pictures"] == CLASSES
    assert figures["fid"] > 0
    assert figures["inception_score"] >= 1
