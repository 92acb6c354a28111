"""What all pages share: escaping, the policy, the parts that are written into them."""

import json
import re

import pytest

from evar.pages import charts, page


def rendered(**more) -> str:
    more = {"data": {"charts": {}, "panels": []}, "scripts": ["export.js", "board.js"], **more}
    return page.render("board.html", panels=[], written="now", own=0, **more)


def test_data_cannot_end_its_element():
    value = {"a": "</script><!--<script>&\u2028"}
    text = page.json_in_html(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        page.json_in_html(float("nan"))


def test_every_script_and_style_is_allowed_by_its_hash_and_nothing_else_is():
    text = rendered(sortable=True)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    scripts = re.findall(
        r"<script(?: type=.text/plain. data-library)?>(.*?)</script>", text, flags=re.DOTALL
    )
    styles = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert len(scripts) == 7
    for part in (*scripts, *styles):
        assert page._hash(part) in policy


def test_no_address_leads_to_a_network():
    outside = re.sub(r"<script[^>]*>.*?</script>", "", rendered(), flags=re.DOTALL)
    assert not re.search(r"(src|href|action)=[\"']?(https?:|//)", outside)
    assert "sourceMappingURL" not in rendered(sortable=True)


def test_vendored_code_has_its_licence_beside_it():
    folder = page._HERE / "static/vendor"
    listed = (folder / "README.md").read_text()
    for path in folder.glob("*.js"):
        assert path.name in listed
    assert len(list(folder.glob("*.LICENSE.txt"))) == 6


def _specs():
    rows = [{"name": "a", "value": 1, "low": 0, "high": 2, "clips": 3, "clear": "with 0"}]
    models = [{"model": "a", "rank": 1.0, "row": 0, "family": "f", "value": 1.0, "parameters": 9}]
    yield charts.bars(rows, title="t")
    yield charts.heatmap([{"true": "a", "predicted": "a", "count": 1, "share": 1}], ["a"])
    yield charts.points_of_runs([{"seed": "1", "fold": "f", "score": 1}], title="t")
    yield charts.curves(
        [{"epoch": 1, "what": "loss", "value": 1, "run": "r"}], what="loss", title="t"
    )
    yield charts.shots([{"shots": 1, "value": 1, "low": 0, "high": 2}], title="t")
    layer = {"layer": 1, "value": 1.0, "low": 0.5, "high": 1.5, "chosen": True, "side": "test"}
    yield charts.layers([layer], title="t")
    yield charts.layer_weights([{"layer": 1, "value": 0.5}])
    yield charts.plane([{"x": 0, "y": 0, "label": "a", "predicted": "a"}], classes=2)
    yield charts.plane([{"x": 0, "y": 0, "clip": "a"}], classes=0)
    yield charts.scatter(models, x="parameters", title="t", y="u")
    yield charts.differences(rows, title="t")
    yield charts.class_differences([{"name": "a", "value": 1, "a": 2, "b": 1}])
    yield charts.critical_difference([{"model": "a", "rank": 1.0, "low": 0.5, "high": 1.5}])


def test_charts_are_valid_vega_lite():
    altair = pytest.importorskip("altair", reason="needs altair, which has the schema")
    for spec in _specs():
        spec = {**spec, "autosize": spec["autosize"]}
        altair.Chart.from_dict(spec)


def test_the_browser_would_notice_a_request_and_an_error(browser, tmp_path):
    """What `require_sound` relies on: both are seen on a page that has them."""
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://127.0.0.1:9/a.png"><script>throw new Error("no")</script>')
    browser.open(path)
    assert "http://127.0.0.1:9/a.png" in browser.requests()
    assert any("Error: no" in line for line in browser.console())
    path.write_text('<div style="width: 9999px">wide</div>')
    browser.open(path, width=390)
    with pytest.raises(AssertionError, match="sideways"):
        browser.require_sound(path)


def test_the_policy_stops_what_should_not_be_there(browser, tmp_path):
    """A script that slipped into a page does not run, and a picture is not fetched."""
    path = tmp_path / "page.html"
    slipped = '<img src="http://127.0.0.1:9/b.png"><script>document.title = "run"</script></body>'
    path.write_text(rendered().replace("</body>", slipped))
    browser.open(path)
    assert browser.driver.title == "evar leaderboard"
    assert sum("Content Security Policy" in line for line in browser.console()) >= 2
