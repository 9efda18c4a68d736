"""The table of hosts says what ran, and its page's lines are right where they can be tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.pages import ROOT
from tables import CannotMeasureError
from tables.hosts import HOSTS, Case, case, python

PAGE = (ROOT / "docs/hosts.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case(tmp_path_factory.mktemp("hosts"))


def test_a_host_with_other_outputs_has_not_run(tried: Case) -> None:
    assert python(tried) == ["registered", "`onnxopt.load`"]
    wrong = replace(tried, outputs=[y + np.float32(1e-3) for y in tried.outputs])
    with pytest.raises(CannotMeasureError, match="expected"):
        python(wrong)


def test_every_host_has_its_lines() -> None:
    for host in HOSTS:
        anchor = host.name.partition("(#")[2].rstrip(")").partition("-")[0]
        assert f"\n## {anchor}" in PAGE.casefold(), host.name


def test_the_lines_for_python_run(tried: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tried.folder)
    names: dict[str, object] = {}
    exec(PAGE.partition("```python\n")[2].partition("```")[0], names)
    assert names["session"].get_outputs()  # type: ignore[attr-defined]


def test_every_file_linked_exists() -> None:
    links = [part.partition(")")[0].partition("#")[0] for part in PAGE.split("](")[1:]]
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
