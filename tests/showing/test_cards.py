"""Results as text and as HTML."""

from tmask.showing.cards import Card


def test_columns_of_the_text_line_up():
    card = Card(
        "Title", {"seconds": "3"}, [{"layer": "a", "gap": "0"}, {"layer": "long.name", "gap": "1%"}], (), ["end"]
    )
    assert card.text().splitlines() == ["Title", "seconds: 3", "layer      gap", "a          0", "long.name  1%", "end"]


def test_names_are_text_to_the_page_and_pictures_are_not():
    page = Card("<b>", {"a&b": "<i>"}, [{"<th>": "<td>"}], ["<svg/>"], ["<p>"]).html()
    for name in ("<b>", "a&b", "<i>", "<th>", "<td>", "<p>"):
        assert name not in page
    assert "<svg/>" in page
    assert "&lt;td&gt;" in page


def test_a_long_table_scrolls_in_its_box():
    row = {"layer": "a"}
    assert "max-height" in Card("many", {}, [row] * 200).html()
    assert "max-height" not in Card("few", {}, [row] * 3).html()


def test_a_card_without_rows_has_no_empty_table():
    assert "<table" not in Card("Title", {}).html()
    assert Card("Title", {}).text() == "Title"
