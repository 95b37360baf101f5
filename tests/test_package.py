"""What a package page shows, and what the project file promises."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def on_its_own():
    spec = importlib.util.spec_from_file_location("package_readme", ROOT / "package_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.on_its_own


def test_no_link_of_the_page_leads_to_a_file_that_is_not_there(on_its_own):
    readme = (ROOT / "README.md").read_text()
    assert "](docs/" in readme
    for source in ("", "https://example.org/tmask/"):
        page = on_its_own(readme, source, "1.2")
        assert re.findall(r"\]\((?!https://)[^)]*\)", page) == []
        assert ("https://example.org/tmask/blob/v1.2/docs/how-to/index.md" in page) == bool(source)
        assert "[arXiv 2102.08124](https://arxiv.org/abs/2102.08124)" in page
    assert "![" not in on_its_own(readme, "", "1.2")
    assert on_its_own("[a](b.md) ![c](d.png)", "https://x", "1") == (
        "[a](https://x/blob/v1/b.md) ![c](https://x/raw/v1/d.png)"
    )


def test_the_fast_solver_comes_with_the_package():
    assert any(name.startswith("numba>=") for name in PROJECT["dependencies"])
    assert PROJECT["optional-dependencies"]["numba"] == []
