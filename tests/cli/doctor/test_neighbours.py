"""`arpg doctor` beside a server that runs already."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from service.cli.main import main
from service.server.embedded import EmbeddedServer
from service.settings import Settings
from tests.cli.doctor.examining import examined, fault, faults
from tests.support.api import running_api


def test_a_server_that_runs_here_is_recognised_by_its_port_and_its_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    with EmbeddedServer(data / "valkey") as url, running_api(Settings(redis_url=url, _env_file=None)) as api:
        port = api.client.base_url.port
        assert port is not None
        here = ["--model", str(model), "--port", str(port)]
        told = data / "valkey" / "server.json"
        told.write_text(json.dumps(json.loads(told.read_text()) | {"http_port": port}))

        status, found = examined(capsys, *here, "--data-dir", str(data))
        assert (status, faults(found)) == (0, set())
        says = f"an arpg server answers at port {port}: it is not ready: no worker is alive yet"
        fault(found, "port", says, "another port (--port or PORT)", "ok")
        assert f"the arpg server at port {port} runs its own" in found["redis"]["says"]
        api.show_card()
        assert main(["doctor", *here, "--data-dir", str(data)]) == 0
        said = capsys.readouterr().out
        assert f"an arpg server answers at port {port}: it is ready" in said
        assert said.splitlines()[-1] == "an arpg server runs here"

        # A second server needs both: another port, and another folder.
        assert examined(capsys, *here)[0] == 0
        status, found = examined(capsys, "--model", str(model), "--data-dir", str(data))
        assert (status, faults(found)) == (1, {"redis"})
        says = f"an `arpg serve` at port {port} uses the data folder {data}"
        fault(found, "redis", says, "another data folder: --data-dir or ARPG_DATA_DIR")
    assert examined(capsys, "--model", str(model), "--data-dir", str(data))[0] == 0


class Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ready"}')

    def log_message(self, *_: object) -> None:
        pass


def test_another_program_at_the_port_is_a_fault(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        status, found = examined(capsys, "--model", str(model), "--port", str(server.server_port))
        server.shutdown()
    assert (status, faults(found)) == (1, {"port"})
