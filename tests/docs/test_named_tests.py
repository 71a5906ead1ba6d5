"""The documents name tests that exist, and each row of the fault table names one."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import documents
from tests.support.processes import REPOSITORY

TEST = re.compile(r"(tests/[\w/]+\.py)((?:::\w+)*)")
"""A file of tests, or a test in it: `tests/jobs/test_queue.py::test_finish_ends_once`."""


def missing(text: str) -> list[str]:
    """The tests that the text names and that do not exist."""
    found = []
    for path, names in TEST.findall(text):
        file = REPOSITORY / path
        content = file.read_text() if file.is_file() else ""
        defined = all(re.search(rf"(def|class) {name}\b", content) for name in names.split("::")[1:])
        if not content or not defined:
            found.append(path + names)
    return found


@pytest.mark.parametrize("document", documents())
def test_every_test_that_a_document_names_exists(document: str) -> None:
    assert missing((REPOSITORY / document).read_text()) == []


def test_every_fault_is_held_to_a_test() -> None:
    text = (REPOSITORY / "service/README.md").read_text()
    tables = [[line for line in table.splitlines() if line.startswith("|")] for table in re.split(r"\n\s*\n", text)]
    [faults] = [table for table in tables if any(TEST.search(line) for line in table)]
    rows = faults[2:]  # below the header and its rule
    assert len(rows) > 15
    assert [row for row in rows if not TEST.search(row)] == []


def test_a_test_that_does_not_exist_is_found() -> None:
    here = "tests/docs/test_named_tests.py"
    assert missing(f"`{here}::missing`, `{here}::TEST`, `tests/gone.py`") == [f"{here}::TEST", "tests/gone.py"]
