"""The skeleton and the voices are found in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from gsv import repository
from gsv.errors import ConfigurationError


def test_in_this_checkout() -> None:
    root = Path(__file__).parents[2]
    assert repository.template_root() == root / "model_repository"
    assert repository.bundled_voices() == root / "voices"


def test_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "_PACKAGE", tmp_path / "site" / "gsv")
    monkeypatch.setattr(repository, "_CHECKOUT", tmp_path)
    with pytest.raises(ConfigurationError, match="install the package again"):
        repository.template_root()
    assert repository.bundled_voices() is None
    for name in ("_model_repository", "_voices"):
        (tmp_path / "site" / "gsv" / name).mkdir(parents=True)
    assert repository.template_root() == tmp_path / "site" / "gsv" / "_model_repository"
    assert repository.bundled_voices() == tmp_path / "site" / "gsv" / "_voices"
