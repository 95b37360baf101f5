import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmask import InvalidProblemError, Pattern


@given(st.integers(1, 32), st.data())
def test_text_round_trip(m, data):
    pattern = Pattern(data.draw(st.integers(1, m)), m)
    assert Pattern.parse(str(pattern)) == pattern


def test_a_pattern_passes_through():
    pattern = Pattern(2, 4)
    assert Pattern.parse(pattern) is pattern


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4:2", "did you mean 2:4"),
        ("0:4", "0 < n <= m"),
        ("2-4", "write it as 'N:M'"),
        ("2:4:8", "write it as 'N:M'"),
        ("", "write it as 'N:M'"),
        ("-1:4", "write it as 'N:M'"),
        ("2:64", "at most 32"),
        (24, "write it as 'N:M'"),
    ],
)
def test_what_is_no_pattern_says_why(text, says):
    with pytest.raises(InvalidProblemError, match=says):
        Pattern.parse(text)


@pytest.mark.parametrize(("n", "m"), [(2.0, 4), (True, 4), ("2", 4)])
def test_n_and_m_are_integers(n, m):
    with pytest.raises(InvalidProblemError, match="must be an integer"):
        Pattern(n, m)
