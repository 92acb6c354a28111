"""docs/trust.md names a test for every promise: these tests exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_and_every_failure_names_a_test():
    promises, _, failures = PAGE.partition("## What went wrong once")
    rows = re.findall(r"^\| (\d+) \|.*`tests/.*::.*` \|$", failures, re.MULTILINE)
    assert {int(number) for number in rows} == set(range(1, 22))
    bullets = re.findall(r"^- .*(?:\n  .*)*", promises, re.MULTILINE)
    assert len(bullets) > 20
    assert [b for b in bullets if "::test_" not in b] == []
