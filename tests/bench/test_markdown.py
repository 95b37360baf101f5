"""Tables of pages: cells as they were given, pages whole beside their CSV."""

from bench.markdown import table, write_page
from tests.bench.pages import unpadded


def test_cells_stay_as_they_are():
    text = table(["name", "x"], [["a", "1.50"], ["b", ""], ["1e3", "007"]])
    assert unpadded(text).splitlines()[2:] == ["| a | 1.50 |", "| b | |", "| 1e3 | 007 |"]


def test_a_page_stands_beside_its_csv(tmp_path):
    page = write_page(tmp_path / "rows.csv", "text\n")
    assert page == tmp_path / "rows.md"
    assert page.read_text() == "text\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.md"]
