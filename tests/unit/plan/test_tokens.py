# ruff: noqa: E501, RUF001
"""Token bounds and estimates, against counts of a real multilingual vocabulary."""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.plan.tokens import bound_tokens, cumulative_weights, estimate_text, estimate_tokens

# Counted with the unigram vocabulary of XLM-R (250,002 pieces).
COUNTED = [
    (
        "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
        36,
    ),
    (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
        39,
    ),
    (
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
        38,
    ),
    (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
        47,
    ),
    (
        "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
        40,
    ),
    (
        "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح الإخاء.",
        39,
    ),
    ("सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।", 19),
    ("人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。", 29),
    (
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
        44,
    ),
    (
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
        46,
    ),
    ("Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.", 22),
    ("כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.", 17),
    ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ", 15),
    ("Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.", 18),
    (
        "def parse_header(line: str) -> tuple[str, str]:\n    name, _, value = line.partition(':')\n    return name.strip().lower(), value.strip()\n",
        53,
    ),
    (
        "| name | price | stock |\n|------|-------|-------|\n| shoe | 12.50 | 3 |\n| sock | 1.99 | 120 |\n",
        47,
    ),
    ("https://example.com/catalogue/shoes/running?colour=blue&size=42&sort=price_asc#reviews", 36),
    ("🙂🚀🎉🔥✨👍🐍⚡", 7),
]
RANDOM = random.Random(7)
BASE64 = base64.b64encode(RANDOM.randbytes(600)).decode()
HEX = RANDOM.randbytes(400).hex()
DIGITS = "".join(RANDOM.choice("0123456789") for _ in range(600))


@pytest.mark.parametrize(("text", "counted"), COUNTED)
def test_estimates_are_close_to_counts(text: str, counted: int) -> None:
    """No language, code, table, URL or emoji is underestimated by 6 %, nor doubled."""
    assert 0.94 * counted <= estimate_text(text) <= 1.85 * counted
    assert counted <= bound_tokens(pa.array([text]))[0]


@pytest.mark.parametrize(
    ("text", "counted"), [(BASE64, 604), (HEX, 508), (DIGITS, 229)], ids=["base64", "hex", "digits"]
)
def test_long_runs_are_dense(text: str, counted: int) -> None:
    """Unbroken runs of letters and digits weigh several times as much as words."""
    assert 0.97 * counted <= estimate_text(text) <= 1.6 * counted


def test_english_margin(shared_data: Path) -> None:
    """English abstracts come to 3.4 to 4.1 characters a token: 1.05 to 1.25 times the real count."""
    table = pq.read_table(shared_data / "cranfield" / "candidates.parquet", columns=["text"])
    texts = table["text"].unique().drop_null()
    characters = sum(len(str(text)) for text in texts.to_pylist())
    tokens = int(estimate_tokens(texts).sum())
    assert 1.05 * 0.2333 <= tokens / characters <= 1.25 * 0.2333


def test_english_against_a_real_tokenizer(shared_data: Path) -> None:
    """An English vocabulary of 32,000 pieces counts about what is estimated."""
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("wordllama is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    folder = Path(spec.submodule_search_locations[0]) / "tokenizers"
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    table = pq.read_table(shared_data / "scifact_small" / "candidates.parquet", columns=["text"])
    texts = table["text"].unique().drop_null()[:200].to_pylist()
    real = sum(len(item.ids) for item in tokenizer.encode_batch(texts, add_special_tokens=False))
    assert 0.9 < int(estimate_tokens(pa.array(texts)).sum()) / real < 1.2


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_every_string_array_is_read(kind: pa.DataType) -> None:
    """String types, slices, chunks, empty texts and empty arrays give the same per text."""
    texts = ["", "naïve text", "", "日本語", "plain words", ""]
    array = pa.array(["left out", *texts, "left out"], kind).slice(1, len(texts))
    expected = [estimate_text(text) for text in texts]
    assert estimate_tokens(array).tolist() == expected
    assert estimate_tokens(pa.chunked_array([array, array])).tolist() == expected * 2
    assert bound_tokens(array).tolist() == [len(text) for text in texts]
    for empty in (array.slice(0, 0), pa.chunked_array([pa.array([], kind)]), pa.array([""], kind)):
        assert estimate_tokens(empty).tolist() == [0] * len(empty)
        assert bound_tokens(empty).tolist() == [0] * len(empty)


def test_blocks_do_not_change_estimates() -> None:
    """A table larger than a block, and texts larger than one, are estimated text by text."""
    texts = ["word " * 30_000, "", "Ünïcode " * 20_000, *(f"row {n}" for n in range(30_000))]
    expected = [estimate_text(text) for text in texts[:4]]
    estimates = estimate_tokens(pa.array(texts))
    assert estimates[:4].tolist() == expected
    assert (estimates[3:] == np.array([estimate_text(text) for text in texts[3:]])).all()


def test_bound_is_the_composed_length() -> None:
    """Decomposed letters count once composed, and letters that decompose count twice."""
    decomposed = unicodedata.normalize("NFD", "Tiếng Việt 한국어")
    texts = pa.array([decomposed, "\u0958", "plain"])
    assert bound_tokens(texts).tolist() == [len("Tiếng Việt 한국어"), 2, 5]
    assert (estimate_tokens(texts) <= bound_tokens(texts)).all()


def test_nulls_are_refused() -> None:
    """A null has no tokens; asking for them is a mistake of the caller."""
    with pytest.raises(ValueError, match="nulls"):
        estimate_tokens(pa.array(["a", None]))


def test_blanks_weigh_little_and_json_much() -> None:
    """Indentation is almost free; the quotes and braces of JSON are not."""
    assert estimate_text(" " * 100) == 10
    text = json.dumps([{"sku": "AX-1209", "size": 42}] * 10)
    assert estimate_text(text) > len(text) / 2.5


def test_weights_accumulate() -> None:
    """The sums begin at 0, grow with every character and end at the text's weight."""
    sums = cumulative_weights("two words")
    assert sums[0] == 0
    assert (np.diff(sums) > 0).all()
    assert -(-int(sums[-1]) // 100) == estimate_text("two words")
    assert cumulative_weights("").tolist() == [0]
