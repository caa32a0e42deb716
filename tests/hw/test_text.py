"""Names from files reach a terminal without effect."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sordino_hw.spec.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv1.0", "conv1.0"),
        ("größe η", "größe η"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2028b", r"a\u2028b"),
        ("\udc80", r"\udc80"),
        ("\x9b31m", r"\x9b31m"),
    ],
)
def test_examples(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_one_printable_line(text):
    shown = printable(text, limit=50)
    assert len(shown.splitlines()) <= 1 and shown.isprintable() and len(shown) <= 50 * 10
    shown.encode()


def test_long_names_keep_their_ends():
    assert printable("a" * 300 + "b" * 300, limit=9) == "aaaa…bbbb"
