"""Every registered adapter, built tiny and untrained, keeps the contract."""

import pytest

from evar import check, models

NAMES = models.names()
WITHOUT_PACKAGE = {
    name for name in NAMES if models.adapter_class(models.config(name).adapter).TINY is None
}


@pytest.mark.parametrize("name", NAMES)
def test_adapter_conforms(name):
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    if cls.TINY is None:
        pytest.skip(f"{name} needs an optional package")
    adapter = cls(**{**config.options, **cls.TINY}).eval()
    failed = [finding for finding in check.check(adapter) if not finding.ok]
    assert not failed, failed


def test_only_opensmile_cannot_be_built_here():
    assert {"opensmile"} >= WITHOUT_PACKAGE


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_documented(name):
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    assert config.title or cls.__doc__
    if config.weights is not None:
        assert config.weights.url or config.weights.how
        assert config.paper
        assert config.verified
        assert "VERIFIED_" not in config.verified
