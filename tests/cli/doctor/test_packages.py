"""`arpg doctor` on a healthy machine, and on one whose packages are missing or broken, or whose GPU is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from service.cli.doctor import packages
from service.cli.main import main
from service.settings import Settings
from tests.cli.doctor.examining import apart, examined, fault, faults
from tests.support.processes import REPOSITORY


def test_a_healthy_machine_has_no_fault(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = examined(capsys, "--model", str(model), "--model", "demo")
    assert (status, faults(found)) == (0, set())
    assert found.keys() >= {"python", "torch", "cuda", "triton", "redis", "port", "disk", "cache", "checkpoint demo"}
    assert found[f"checkpoint {model}"]["says"].startswith("arpg, ")
    assert main(["doctor", "--model", str(model)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "arpg serve can run here"


def test_a_python_without_torch(model: Path) -> None:
    status, found = apart("sys.modules['torch'] = None", ARPG_MODELS=str(model))
    assert (status, faults(found)) == (1, {"torch"})
    fault(found, "torch", "torch is not installed", "pip install '.[service]' in the checkout")
    assert found[f"checkpoint {model}"]["state"] == "skipped"


def test_a_torch_that_can_not_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.12: no such file')")
    status, found = apart(PYTHONPATH=str(tmp_path))
    assert status == 1
    fault(found, "torch", "can't be imported: OSError: libcudart.so.12: no such file", "--force-reinstall torch")


def test_a_python_without_packages(model: Path) -> None:
    missing = [name for name in packages.NEEDED if name != "redis"]  # `arpg` itself names a missing redis
    code = f"sys.modules.update(dict.fromkeys({missing}))"
    status, found = apart(code, ARPG_MODELS=str(model))
    assert status == 1
    fault(found, "python", f"lacks {', '.join(missing)}", "pip install '.[service]' in the checkout")
    assert found[f"checkpoint {model}"]["state"] == "skipped"


def test_an_installation_without_any_extra_says_what_to_install() -> None:
    script = "import sys; sys.modules['pydantic'] = None; from service.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "doctor"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "arpg needs pydantic: pip install '.[service]' in the checkout\n")


def test_a_gpu_that_is_asked_for_and_is_not_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = examined(capsys, "--model", str(model), "--device", "cuda:7")
    assert status == 1
    fault(found, "cuda", "cuda:7", "ARPG_DEVICE")
    status, found = examined(capsys, "--model", str(model), "--device", "gpu")
    assert status == 1
    fault(found, "cuda", "there is no device 'gpu'", "set ARPG_DEVICE to cpu, cuda")


class Gpu:
    """torch on a machine with a GPU, as far as the doctor asks it."""

    __version__ = "2.13"
    version = SimpleNamespace(cuda="13.0", hip=None)

    def __init__(self, capability: tuple[int, int] = (9, 0), problem: str = "") -> None:
        self.problem = problem
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: 1,
            mem_get_info=lambda index: (2**33, 2**34),
            get_device_name=lambda index: "H200",
            get_device_capability=lambda index: capability,
        )

    def zeros(self, count: int, device: str) -> Any:
        if self.problem:
            raise RuntimeError(self.problem)
        return SimpleNamespace(item=lambda: 0.0)


@pytest.mark.parametrize(
    ("gpu", "device", "state", "says", "cure"),
    [
        (Gpu(), None, "ok", "H200, 8.0 of 16.0 GiB free", ""),
        (Gpu((7, 5)), None, "warning", "no bfloat16", "ARPG_DTYPE=float32"),
        (Gpu(problem="CUDA error: out of memory\nmore"), None, "fault", "CUDA error: out of memory", "nvidia-smi"),
        (Gpu(), "cuda:1", "fault", "there is no cuda:1: 1 GPU", "set ARPG_DEVICE to one of cuda:0"),
    ],
)
def test_what_a_gpu_says(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu, device: str | None, state: str, says: str, cure: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", gpu)
    [finding] = packages.cuda(Settings(device=device, _env_file=None))
    fault({"cuda": vars_of(finding)}, "cuda", says, cure, state)


def test_a_gpu_without_triton_or_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(_env_file=None)
    monkeypatch.setitem(sys.modules, "torch", Gpu())
    monkeypatch.setitem(sys.modules, "triton", None)
    [finding] = packages.triton(settings)
    fault({"triton": vars_of(finding)}, "triton", "triton is not installed", "pip install triton")
    found = ModuleType("triton")
    found.__version__ = "3.9"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton", found)
    monkeypatch.setenv("PATH", "/nowhere")
    [finding] = packages.triton(settings)
    fault({"triton": vars_of(finding)}, "triton", "no C compiler", "apt install gcc")


def vars_of(finding: Any) -> dict[str, str]:
    return {name: getattr(finding, name) for name in ("subject", "state", "says", "cure")}
