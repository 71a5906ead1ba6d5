"""The `arpg` command."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from service.cli.main import main as command
    except ModuleNotFoundError as missing:
        print(f"arpg needs {missing.name}: pip install '.[service]' in the checkout", file=sys.stderr)
        return 1
    return command()


__all__ = ["main"]
