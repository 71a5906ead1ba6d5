"""`arpg keys`: add, list and revoke API keys."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, get_args

from service.auth import key_store, keys
from service.settings import Settings


def add(commands: Any) -> None:
    """commands: the subparsers."""
    command = commands.add_parser(
        "keys",
        help="API keys: add, list, revoke",
        description="As soon as the file of keys exists, every request needs a key. Servers see a change at once.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="action")
    new = actions.add_parser("add", help="make a key and print it once; only its hash is stored")
    new.add_argument("name", help="the client: its jobs belong to this name, also with its next key")
    new.add_argument(
        "--scope",
        action="append",
        dest="scopes",
        choices=get_args(keys.Scope),
        help="what the key allows (draw); may be given again",
    )
    new.add_argument(
        "--weight", type=float, default=1.0, help="its share of the workers' time, relative to other clients (1)"
    )
    new.add_argument("--quota", type=int, help="how many of its jobs may be queued or running; default: no limit")
    new.add_argument("--rate", type=int, help="requests a minute; 0: no limit; default: ARPG_RATE, or 600")
    new.add_argument(
        "--priority",
        choices=keys.PRIORITIES,
        default="normal",
        help="the highest priority that its jobs may have (normal)",
    )
    listing = actions.add_parser("list", help="the keys, without their secrets")
    old = actions.add_parser("revoke", help="revoke a client's keys, sessions and signed addresses; open streams go on")
    old.add_argument("name", help="the client whose keys end")
    for action in (new, listing, old):
        action.add_argument(
            "--keys-file", type=Path, help="the file of keys; default: keys.jsonl in the data folder (ARPG_KEYS_FILE)"
        )
        action.add_argument("--data-dir", type=Path, help="the data folder; default: ./var")


def run(parsed: Namespace, settings: Settings) -> int:
    path = settings.keys_path
    if parsed.action == "add":
        limits = {name: getattr(parsed, name) for name in ("weight", "quota", "rate", "priority")}
        text, key = keys.make(parsed.name, scopes=tuple(parsed.scopes or ("draw",)), **limits)
        key_store.add(path, key)
        print(
            f"{key.name}: its hash is stored in {path}; this is the only time that the key is shown:", file=sys.stderr
        )
        print(text)
    elif parsed.action == "revoke":
        key_store.revoke(path, parsed.name)
        print(f"{parsed.name} is revoked", file=sys.stderr)
    else:
        print(f"{'name':20} {'id':8} {'scopes':14} {'weight':>6} {'quota':>6} {'rate':>6} priority")
        for key in key_store.read(path) if path.exists() else ():
            quota, rate = ("-" if number is None else number for number in (key.quota, key.rate))
            scopes = ",".join(key.scopes)
            print(f"{key.name:20} {key.id:8} {scopes:14} {key.weight:>6g} {quota:>6} {rate:>6} {key.priority}")
    return 0
