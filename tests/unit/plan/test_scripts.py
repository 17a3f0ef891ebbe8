"""The script of a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.plan.scripts import SCRIPTS, name_script


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("", "latin"),
        ("plain words, 42 of them", "latin"),
        ("čtyři žluté šálky", "latin"),
        ("Öl für die Kette", "latin"),
        ("γράμματα και λέξεις", "greek"),
        ("быстрый поиск товаров", "cyrillic"),
        ("חיפוש מהיר", "hebrew"),
        ("البحث السريع", "arabic"),
        ("तेज़ खोज", "indic"),
        ("விரைவான தேடல்", "indic"),
        ("ค้นหาอย่างรวดเร็ว", "thai"),
        ("빠른 검색", "hangul"),
        ("\u1112\u1161\u11ab", "hangul"),
        ("すばやいけんさく", "kana"),
        ("検索結果の並べ替え", "kana"),
        ("ﾊﾝｶｸ", "kana"),
        ("快速搜索引擎", "han"),
        ("𠀋𠂉", "han"),
        ("ფართო ძებნა", "other"),
        ("🙂👍🏽", "other"),
        ("… — “”", "other"),
    ],
)
def test_scripts_are_told(text: str, script: str) -> None:
    """Each kind of writing gets its name, Japanese with Han characters too."""
    assert name_script(text) == script


def test_the_larger_part_decides() -> None:
    """A few foreign words do not change the script; spaces, digits and signs do not count."""
    assert name_script("поиск по каталогу (iPhone 15)") == "cyrillic"
    assert name_script("a search engine, поиск") == "latin"
    assert name_script("12345 67890 ... 快") == "han"


def test_only_the_beginning_is_looked_at() -> None:
    """What stands after 200 characters changes nothing."""
    assert name_script("слово " * 40 + "word " * 1000) == "cyrillic"
    assert name_script("a" * 200 + "快" * 1000) == "latin"


@given(st.text(st.characters(), max_size=250))
def test_every_text_has_a_script(text: str) -> None:
    """Any text, lone surrogates included, gets one of the names."""
    assert name_script(text) in SCRIPTS
