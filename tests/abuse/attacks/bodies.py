"""Attacks with the body of a request: charsets, errors without end, bodies that never end, two lengths."""

from __future__ import annotations

import asyncio
import codecs
import json
import resource
import time
from collections.abc import Sequence
from functools import partial

from tests.abuse.attacks.attack import Attack, Send, Target, Told, hammer, in_turn
from tests.abuse.web import Answer, Site, form

Request = tuple[str, dict[str, str], bytes]
"""Name, headers, body."""

JSON = {"Content-Type": "application/json"}
HALVES = 1050
REOPEN_SECONDS = 0.5


def sender(site: Site, path: str, request: Request) -> Send:
    name, headers, body = request

    async def send() -> str:
        return f"{name} {(await site.ask('POST', path, body=body, headers=headers)).outcome}"

    return send


# ---- 1 --------------------------------------------------------------------------------------------------------------


def charsets(target: Target) -> list[Request]:
    """Punycode decodes in quadratic time: each `a` inserts a character."""
    slow = "".join(map(chr, range(0x1F600, 0x1F600 + 200))).encode("punycode") + b"a" * target.many(500_000)
    fields = [(name, slow) for name in ("class", "model", "order")]
    made = {
        "punycode×1": form(fields[:1], charset="punycode"),
        "punycode×3": form(fields, charset="punycode"),
        "undefined": form([("class", b"tree")], charset="undefined"),
        "idna": form([("class", b"xn--a.b")], charset="idna"),
        "name": form([("\xff\xfe", b"tree")], charset="punycode"),
    }
    return [(name, headers, body) for name, (headers, body) in made.items()]


async def send_charsets(target: Target, requests: Sequence[Request]) -> Told:
    sends = [sender(target.site, "/v1/vary", request) for request in requests]
    told = await hammer(target.seconds, in_turn(sends), in_turn(sends[2:]))
    told.broken += [f"{said} times {times}" for said, times in told.statuses.items() if not said.endswith(" 415")]
    return told


# ---- 5 --------------------------------------------------------------------------------------------------------------


def endless_errors(target: Target) -> list[Request]:
    keys = json.dumps({str(number): 1 for number in range(target.many(350_000))}, separators=(",", ":"))
    lists = '{"order":[' + ",".join(["[]"] * target.many(8_000_000)) + "]}"
    order = '{"order":[' + ",".join(["-1"] * target.many(300_000)) + "]}"
    named = {"keys": keys, "lists": lists, "order": order}
    return [(name, JSON, text.encode()) for name, text in named.items()]


async def send_endless_errors(target: Target, requests: Sequence[Request]) -> Told:
    longest = 0

    async def send(request: Request) -> str:
        nonlocal longest
        name, headers, body = request
        answer = await target.site.ask("POST", "/v1/generate", body=body, headers=headers)
        longest = max(longest, len(answer.body))
        return f"{name} {answer.outcome}"

    told = await hammer(target.seconds, *(partial(send, request) for request in requests))
    if longest > 2**16:
        told.broken.append(f"an answer of {longest:,} bytes")
    return told


# ---- 7 --------------------------------------------------------------------------------------------------------------


async def hold_bodies(target: Target, _: object) -> Told:
    """Keeps so many requests open whose bodies stop in the middle. Opens another where the server closes one."""
    told = Told()
    many = target.many(HALVES)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard >= 0 else HALVES + 256, hard))
    until = time.monotonic() + target.seconds
    head = target.site.head("POST", "/v1/generate", {**JSON, "Content-Length": "1000"})

    async def hold() -> None:
        while time.monotonic() < until:
            try:
                reader, writer = await target.site.connect()
            except OSError:
                told.statuses["refused"] += 1
            else:
                told.statuses["opened"] += 1
                try:
                    writer.write(head + b"{" + b" " * 499)
                    async with asyncio.timeout(max(0.0, until - time.monotonic())):
                        said = await reader.read(2**16)
                        told.statuses[said[9:12].decode("latin-1") or "closed"] += 1
                except TimeoutError:
                    told.statuses["held"] += 1
                except OSError:
                    told.statuses["closed"] += 1
                finally:
                    writer.transport.abort()
            await asyncio.sleep(REOPEN_SECONDS)

    await asyncio.gather(*(hold() for _ in range(many)))
    return told


# ---- 14 -------------------------------------------------------------------------------------------------------------


async def send_two_lengths(target: Target, _: None) -> Told:
    """Two lengths are refused, and one encoding of JSON is right on every route."""
    told, site = Told(), target.site
    both = site.head("POST", "/v1/generate", {**JSON, "Content-Length": "7", "Transfer-Encoding": "chunked"})
    told.expect("two lengths", (await site.send(both + b"2\r\n{}\r\n0\r\n\r\n")).outcome, "400")
    fields = json.dumps({"seed": 1})
    bodies = {
        "byte order mark": codecs.BOM_UTF8 + fields.encode(),
        "UTF-16": fields.encode("utf-16"),
        "UTF-16 without mark": fields.encode("utf-16-le"),
        "Latin-1": json.dumps({"schedule": "é"}, ensure_ascii=False).encode("latin-1"),
    }
    routes = ("/v1/generate", "/v1/vary", "/v1/expand")
    for name, body in bodies.items():
        answers: list[Answer] = [await site.ask("POST", route, body=body, headers=JSON) for route in routes]
        told.expect(name, "/".join(answer.outcome for answer in answers), "400/400/400")
    return told


ATTACKS = (
    Attack(1, "forms in punycode and other charsets", charsets, send_charsets),
    Attack(5, "errors without end", endless_errors, send_endless_errors),
    Attack(7, "1,050 half-sent bodies", lambda _: None, hold_bodies, keyless=True),
    Attack(14, "two lengths, other encodings of JSON", lambda _: None, send_two_lengths, bounded=False),
)
