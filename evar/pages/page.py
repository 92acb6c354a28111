"""Renders one self-contained HTML file: no request leaves it, no name in it becomes markup.

Styles, scripts and data are inlined. The page's Content-Security-Policy allows exactly the scripts
and styles that were written here, by their hashes; names and labels are escaped by Jinja.
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import jinja2
from markupsafe import Markup

from evar.results import escape

_HERE = Path(__file__).parent
_CHARTS = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
_TABLES = ("dataTables.min.js",)
_SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*$", re.MULTILINE)


def render(
    template: str,
    *,
    scripts: Iterable[str],
    data: object,
    sortable: bool = False,
    links_to_sounds: bool = False,
    **context: object,
) -> str:
    """Returns the page of a template in evar/pages/templates/.

    scripts: names in evar/pages/static/. data: JSON values that the scripts read. sortable:
    whether it has tables to sort and filter. links_to_sounds: allow sounds from files on this
    disk, not only those inside the page.
    """
    library = [_script(f"vendor/{name}") for name in _CHARTS]
    code = [_script(f"vendor/{name}") for name in (_TABLES if sortable else ())]
    code += [_script(name) for name in ("common.js", *scripts)]
    style = _static("page.css")
    policy = _policy(
        [*library, *code], [style], media="data: file:" if links_to_sounds else "data:"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            policy=policy,
            style=Markup(style),
            library=[Markup(script) for script in library],
            scripts=[Markup(script) for script in code],
            data=Markup(json_in_html(data)),
            **context,
        )
    )


def json_in_html(value: object) -> str:
    """Returns JSON that no HTML parser takes for markup. Raises ValueError for NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _policy(scripts: Iterable[str], styles: Iterable[str], *, media: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src {' '.join(map(_hash, styles))}",
            "img-src data:",
            f"media-src {media}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@functools.cache
def _static(name: str) -> str:
    return (_HERE / "static" / name).read_text(encoding="utf-8")


@functools.cache
def _script(name: str) -> str:
    text = _SOURCE_MAP.sub("", _static(name))
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise ValueError(f"{name} would end the element that it is written into")
    return text


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = escape.terminal
    return environment
