"""Reads a user's YAML within limits: no objects, no repeated keys, no exploding aliases."""

from pathlib import Path

from evar import files
from evar.errors import UserError

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 50  # nested lists and mappings
MAX_VALUES = 200_000  # with every alias written out
MAX_INTEGER = 2**63


def read_yaml(path, *, what: str = "a YAML file"):
    """Returns the content of a YAML file: mappings, lists, texts, numbers, booleans, None.

    Raises UserError with one line for what is no YAML, for other types, for a key that a mapping
    has twice (YAML would keep the last one in silence), and beyond the limits of this module:
    "billion laughs" aliases and deep nesting would fill the memory.
    """
    path = Path(path)
    with files.reading(path):
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES / 2**20:.0f} MiB; not {what}")
        content = path.read_bytes()
    return parse_yaml(content, path, what=what)


def parse_yaml(content: bytes, where, *, what: str = "a YAML file"):
    """Returns the content of YAML text in UTF-8; see `read_yaml`. `where` names it in errors."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = content.decode("utf-8-sig")
        _check_depth(yaml.parse(text, Loader=loader), yaml)
        node = yaml.compose(text, Loader=loader)
        if node is not None:
            _count(node, {}, yaml)
        value = yaml.load(text, Loader=loader)
        _check_numbers(value)
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not {what} ({_reason(error)})") from error
    return value


def _reason(error: Exception) -> str:
    """Says in one line what is wrong, with the number of the line where YAML names it."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{getattr(error, 'problem', error)} in line {mark.line + 1}"
    return (str(error).splitlines() or [""])[0][:200]


def _check_depth(events, yaml) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _count(node, known: dict, yaml) -> int:
    """Counts the values below a node, aliases written out. Raises ValueError beyond the limits."""
    if id(node) in known:
        if known[id(node)] is None:
            raise ValueError("an alias inside of what it stands for")
        return known[id(node)]
    known[id(node)] = None
    total = 1
    if isinstance(node, yaml.MappingNode):
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise ValueError(f"the key {twice[1]!r} stands there twice")
        children = [each for pair in node.value for each in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        total += _count(child, known, yaml)
        if total > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
    known[id(node)] = total
    return total


def _check_numbers(value) -> None:
    """Refuses integers that no setting can hold; values have no cycles by now."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple | set):
        for each in value:
            _check_numbers(each)
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError("a number beyond 64 bits")
