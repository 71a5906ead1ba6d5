"""`/metrics` on a port of its own, for a worker without the API."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import ThreadingWSGIServer

from service.metrics.exposition import negotiated
from service.metrics.series import Metrics


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Logs no requests."""


def serve_metrics(metrics: Metrics, host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serves `/metrics` from a thread. `server.shutdown()` ends it."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, status = environ["REQUEST_METHOD"], "200 OK"
        body, content_type = b"this port serves only /metrics\n", "text/plain; charset=utf-8"
        headers = []
        if environ["PATH_INFO"] != "/metrics":
            status = "404 Not Found"
        elif method not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", b"use GET or HEAD\n"
            headers.append(("Allow", "GET, HEAD"))
        else:
            body, content_type = negotiated(environ.get("HTTP_ACCEPT"), metrics.registry.collect())
            headers.append(("Vary", "Accept"))
        start_response(status, [*headers, ("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [] if method == "HEAD" else [body]

    class Server(ThreadingWSGIServer):
        address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]

    server = make_server(host, port, app, Server, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return server, thread
