"""The offline scorer: in range, exact, pairwise, unbothered by any text."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rerank_jobs.endpoint import lexicon as lexicon_module
from rerank_jobs.endpoint import scorer as scorer_module
from rerank_jobs.endpoint.lexicon import Lexicon
from rerank_jobs.endpoint.scorer import SCORER_VERSION, EmbeddedScorer
from rerank_jobs.errors import JobError

if TYPE_CHECKING:
    from pathlib import Path

ODD_TEXTS = [
    "",
    " ",
    "\n",
    "\x00",
    "\x00\x01\x02 \x7f",
    "!!! --- ???",
    "😀😀👩‍👩‍👧 🇩🇪",
    "\u0301\u0301",
    "ภาษาไทยเขียนติดกันไม่มีช่องว่าง",
    "搜索引擎的排序质量",
    "検索エンジンの順位",
    "검색 엔진 순위",
    "محرك البحث \u202e مرحبا",
    "मशीन सीखना और खोज",
    "the of and",
    "\ud800 lone surrogate",
    "\ufdfa \u2460 \uff21",
    "x" * 100_000,
    "wort " * 20_000,
    "字" * 20_000,
]


def test_relevant_text_scores_higher(embedded_scorer: EmbeddedScorer) -> None:
    """The obvious answer is ranked first, a related text before an unrelated one."""
    scores = embedded_scorer.score(
        "wireless noise cancelling headphones",
        [
            "title: Bluetooth headphones\ntext: wireless over-ear, active noise cancelling",
            "title: Wired earbuds\ntext: 3.5 mm jack",
            "title: Garden hose\ntext: 20 metres, brass fittings",
        ],
    )
    assert scores[0] > scores[1] > scores[2]


def test_other_languages_match_by_words(embedded_scorer: EmbeddedScorer) -> None:
    """In other languages and scripts the text that shares the query's words comes first."""
    cases = [
        ("Welche Batterie hat der Rechner?", "Der Rechner hat eine Batterie.", "Ein Garten im Mai"),
        ("¿Cuál es la capital de Francia?", "París es la capital de Francia", "El perro es grande"),
        ("ราคาของคอมพิวเตอร์", "คอมพิวเตอร์เครื่องนี้ราคาถูก", "แมวนอนอยู่บนโต๊ะ"),
        ("电脑的价格是多少", "这台电脑价格便宜", "猫睡在桌子上"),
        ("Сколько стоит компьютер?", "Компьютер стоит дорого", "Кошка спит на столе"),
    ]
    for query, relevant, other in cases:
        high, low = embedded_scorer.score(query, [relevant, other])
        assert high > low


@pytest.mark.parametrize("query", ["usb speaker", *ODD_TEXTS])
def test_odd_texts_have_finite_scores(embedded_scorer: EmbeddedScorer, query: str) -> None:
    """Any query against any text gives a finite score in [0, 1] and a token count."""
    scores = embedded_scorer.score(query, ODD_TEXTS)
    assert all(math.isfinite(score) and 0 <= score <= 1 for score in scores)
    assert len(scores) == len(ODD_TEXTS)


def test_odd_texts_have_token_counts(embedded_scorer: EmbeddedScorer) -> None:
    """Token counts are whole, never negative, and grow with the text."""
    counts = embedded_scorer.count_tokens(ODD_TEXTS)
    assert all(count >= 0 for count in counts)
    assert counts[ODD_TEXTS.index("x" * 100_000)] > 1000
    assert counts[0] == 0


def test_no_documents_have_no_scores(embedded_scorer: EmbeddedScorer) -> None:
    """An empty list is answered with an empty list."""
    assert embedded_scorer.score("q", []) == []


def _make_texts(seed: int, count: int, longest: int) -> list[str]:
    chosen = random.Random(seed)
    words = [
        "disk",
        "fan",
        "über",
        "café",
        "search",
        "engine",
        "搜索",
        "ราคา",
        "USB-C",
        "node2vec",
        "theOldFoo",
        "the",
        "of",
        "a",
    ]
    return [" ".join(chosen.choices(words, k=chosen.randrange(longest))) for _ in range(count)]


@pytest.mark.parametrize(
    "query", ["search engine", "the cheapest usb disk with a fan", "über", "x"]
)
def test_scores_do_not_depend_on_the_batch(embedded_scorer: EmbeddedScorer, query: str) -> None:
    """One by one, in one call or reversed, also over long texts: the same bits."""
    texts = _make_texts(1, 40, 90) + _make_texts(2, 4, 2000) + ["", "!"]
    together = embedded_scorer.score(query, texts)
    assert [embedded_scorer.score(query, [text])[0] for text in texts] == together
    assert embedded_scorer.score(query, texts[::-1]) == together[::-1]


def test_scores_do_not_depend_on_the_caches(
    embedded_scorer: EmbeddedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scorer that forgets after every call gives the same scores and token counts."""
    texts = _make_texts(3, 30, 80)
    expected = embedded_scorer.score("search fan", texts)
    tokens = embedded_scorer.count_tokens(texts)
    monkeypatch.setattr(lexicon_module, "_MAX_WORDS", 0)
    monkeypatch.setattr(scorer_module, "_MAX_TEXTS", 0)
    forgetful = EmbeddedScorer.load()
    for start in range(0, 30, 7):
        part = slice(start, start + 7)
        assert forgetful.score("search fan", texts[part]) == expected[part]
        assert forgetful.count_tokens(texts[part]) == tokens[part]


def test_scores_do_not_depend_on_threads(embedded_scorer: EmbeddedScorer) -> None:
    """A process whose BLAS has one thread gives the same bits as this one."""
    texts = _make_texts(4, 60, 300)
    script = (
        "import sys, json; from rerank_jobs.endpoint.scorer import EmbeddedScorer; "
        "texts = json.load(sys.stdin); "
        "print(json.dumps(EmbeddedScorer.load().score('cheap usb disk', texts)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(texts),
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == embedded_scorer.score("cheap usb disk", texts)


def test_scores_do_not_depend_on_blocks(
    embedded_scorer: EmbeddedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large requests are worked in blocks; where a block ends changes nothing."""
    texts = _make_texts(5, 50, 200)
    expected = embedded_scorer.score("usb search", texts)
    monkeypatch.setattr(scorer_module, "_BLOCK_WORDS", 150)
    assert embedded_scorer.score("usb search", texts) == expected


def test_model_name_is_the_scorers_own(embedded_scorer: EmbeddedScorer) -> None:
    """Scores are named after this scorer and its version, never after a requested model."""
    assert embedded_scorer.model == f"embedded/{SCORER_VERSION}"


def test_known_scores_have_not_moved(embedded_scorer: EmbeddedScorer) -> None:
    """A change that moves any score must come with a new SCORER_VERSION."""
    scores = embedded_scorer.score(
        "usb speaker", ["title: USB speakers", "a loudspeaker for notebooks", "garden hose"]
    )
    assert (SCORER_VERSION, scores) == ("lexvec-1", [0.873698, 0.255056, 0.040931])


def test_token_counts_are_near_a_multilingual_model(embedded_scorer: EmbeddedScorer) -> None:
    """English prose counts about a token per 4.5 characters, Chinese two per three."""
    prose = "The quick brown fox jumps over the lazy dog while nobody is looking at the river. "
    english, chinese = embedded_scorer.count_tokens([prose * 50, "搜索引擎的排序质量" * 50])
    assert 0.19 <= english / len(prose * 50) <= 0.29
    assert 0.55 <= chinese / (9 * 50) <= 0.8


def test_missing_wordllama_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel the error is one line that says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(JobError, match=r"pip install 'rerank-jobs\[embedded\]'"):
        Lexicon.load()


def test_a_missing_package_names_what_to_install() -> None:
    """Without the extra, importing the endpoint is one error that says what to install."""
    script = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from rerank_jobs.errors import JobError\n"
        "try:\n    import rerank_jobs.endpoint.app\n"
        "except JobError as error:\n    print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == (
        "the embedded endpoint needs tokenizers: pip install 'rerank-jobs[embedded]'\n"
    )


def test_changed_data_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other vectors would give other scores under the same name, so they are refused."""

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("importlib.util.find_spec", lambda _name: Spec())
    with pytest.raises(JobError, match="cannot read"):
        Lexicon.load()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "l2_supercat_256.safetensors").write_bytes(b"other")
    with pytest.raises(JobError, match="not the expected file"):
        Lexicon.load()


def test_wordllama_itself_is_not_imported() -> None:
    """Importing wordllama would configure root logging; the scorer reads its files only."""
    script = (
        "import sys; from rerank_jobs.endpoint.scorer import EmbeddedScorer; "
        "EmbeddedScorer.load(); sys.exit('wordllama' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
