"""A real browser for the page's test: Chromium, spoken to over its own debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import die_with_parent
from tests.support.waiting import PATIENCE

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab. `problems` gathers what its console and its policies complained about."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._buffer = b""
        self._id = 0
        self._session: str | None = None
        self.problems: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params or {}}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._id:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._reading, 2**16)
            assert chunk, "chromium went away"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url: str, *, dark: bool = False, width: int = 1180, height: int = 820) -> None:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", {"features": scheme})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", size)
        self._call("Page.navigate", {"url": url})

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never true: {condition}; {self.problems}"
            time.sleep(0.05)

    def press(self, key: str, *, ctrl: bool = False) -> None:
        pressed: dict[str, Any] = {"key": key, "code": "Space" if key == " " else key, "modifiers": 2 if ctrl else 0}
        # What the browser itself does with a key goes by these.
        if key == "Enter":
            pressed["text"] = "\r"
        if key == "Escape":
            pressed["windowsVirtualKeyCode"] = 27
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", {"type": kind, **pressed})

    def forget_cookies(self) -> None:
        self._call("Network.clearBrowserCookies")

    def type(self, text: str) -> None:
        """Into whatever has the focus."""
        self._call("Input.insertText", {"text": text})

    def drag(self, selector: str, *points: tuple[float, float]) -> None:
        """With the mouse, over an element: each point a share of its width and of its height."""
        box = f"(b => [b.left, b.top, b.width, b.height])(document.querySelector('{selector}').getBoundingClientRect())"
        left, top, width, height = self.run(box)
        at = [{"x": left + x * width, "y": top + y * height} for x, y in points]
        moves = [("mousePressed", at[0]), *(("mouseMoved", point) for point in at[1:]), ("mouseReleased", at[-1])]
        for kind, point in moves:
            held = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
            self._call("Input.dispatchMouseEvent", {"type": kind, **held, **point})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A tab of a Chromium of its own, with an empty profile; needs `chromium()`."""
    program = chromium()
    assert program is not None
    to_child, writing = os.pipe()
    reading, from_child = os.pipe()

    def wire() -> None:
        die_with_parent()
        # Above 3 and 4 first: the ends may be just those numbers.
        inward, outward = os.dup(to_child), os.dup(from_child)
        os.dup2(inward, 3)
        os.dup2(outward, 4)

    process = subprocess.Popen(
        [program, *QUIET, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
        preexec_fn=wire,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_child)
    os.close(from_child)
    try:
        yield Page(reading, writing)
    finally:
        process.terminate()
        process.wait(10)
        os.close(reading)
        os.close(writing)
