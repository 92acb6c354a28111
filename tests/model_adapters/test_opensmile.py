import importlib.util
import sys

import pytest

from evar.check import check
from evar.errors import UserError
from evar.model_adapters.opensmile import OpenSmile
from helpers.golden_cases import noise

installed = importlib.util.find_spec("opensmile") is not None


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(UserError, match="non-commercial use only: pip install opensmile"):
        OpenSmile()


@pytest.mark.skipif(not installed, reason="opensmile is optional")
def test_steady():
    model = OpenSmile().eval()
    assert model.embed(noise(2, 16000)).shape == (2, 88)
    assert [str(finding) for finding in check(model) if not finding.ok] == []
