"""A user's YAML is read within limits, and refused in one line."""

import time

import pytest

from evar.errors import UserError
from evar.yaml_files import parse_yaml, read_yaml

GOOD = {
    "": None,
    "a: 1\nb: [x, 2.5, true, null]\n": {"a": 1, "b": ["x", 2.5, True, None]},
    "a: &x text\nb: [*x, *x]\n": {"a": "text", "b": ["text", "text"]},
    "\ufeffé: ü\n": {"é": "ü"},
    "<<: {a: 1}\nb: 2\n": {"a": 1, "b": 2},
}


@pytest.mark.parametrize("text", GOOD)
def test_plain_values_are_read(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == GOOD[text]


def bomb(levels, children="[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]"):
    lines = ["n0: &n0 [x, x, x]"]
    lines += [f"n{i}: &n{i} " + children.format(f"*n{i - 1}") for i in range(1, levels)]
    return "\n".join(lines) + "\n"


HOSTILE = {
    "lists of aliases": (bomb(30), "more than 200,000 values"),
    "mappings of aliases": (bomb(30, "{{p: {0}, q: {0}, r: {0}}}"), "more than 200,000 values"),
    "an alias of itself": ("&a {templates: *a}\n", "an alias inside"),
    "a list of itself": ("a: &a [*a]\n", "an alias inside"),
    "deep lists": ("a: " + "[" * 5000 + "]" * 5000, ""),
    "deep mappings": ("{a: " * 300 + "x" + "}" * 300, "levels deep"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(900)) + " x\n", "levels deep"),
    "400 digits": ("seed: " + "9" * 400, "beyond 64 bits"),
    "5000 digits": ("seed: " + "9" * 5000, ""),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "the key 'a' stands there twice"),
    "a key twice, below": ("a: {x: 1, x: 2}\n", "the key 'x' stands there twice"),
    "an object": ("a: !!python/object/apply:os.system ['touch harm']\n", "constructor"),
    "a name": ("a: !!python/name:os.system\n", "constructor"),
    "an unknown tag": ("a: !foo b\n", "constructor"),
    "a list as a key": ("? [a, b]\n: x\n", ""),
    "two documents": ("a: 1\n---\na: 2\n", ""),
    "NUL": ("a: 'x\0y'\n", ""),
    "a tab": ("a:\n\tb: c\n", ""),
    "latin-1": (b"a: \xe9\n", ""),
    "UTF-16": ("a: 1\n".encode("utf-16"), ""),
    "month 13": ("a: 2001-13-01\n", ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_refused_in_one_line(kind):
    text, reason = HOSTILE[kind]
    content = text if isinstance(text, bytes) else text.encode()
    begin = time.process_time()
    with pytest.raises(UserError) as raised:
        parse_yaml(content, "a.yaml", what="a configuration")
    assert time.process_time() - begin < 2
    message = str(raised.value)
    assert message.startswith("a.yaml: not a configuration (")
    assert reason in message
    assert "\n" not in message
    assert len(message) < 300


def test_many_keys_take_linear_time():
    text = "".join(f"label {i}: x\n" for i in range(30_000)).encode()
    begin = time.process_time()
    assert len(parse_yaml(text, "a.yaml")) == 30_000
    assert time.process_time() - begin < 10


def test_a_large_file_is_not_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"#" * (4 * 2**20 + 1))
    with pytest.raises(UserError, match="larger than 4 MiB; not a YAML file"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"gone.yaml: cannot be read"):
        read_yaml(tmp_path / "gone.yaml")
