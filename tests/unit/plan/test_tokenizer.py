"""Exact counts and windows by a tokenizer.json: small ones trained here, and a real one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from rerank_jobs.errors import JobError
from rerank_jobs.job import plan_partition, preview_partition
from rerank_jobs.plan.build import build_plan
from rerank_jobs.plan.counting import TokenCounter
from rerank_jobs.plan.packing import billing_chunks
from rerank_jobs.plan.tokenizer import TokenizerFile, make_counter, read_tokenizer
from rerank_jobs.plan.work import read_batches
from rerank_jobs.tables.sources import open_input
from tests.builders import WORDS, make_job, make_rows, write_rows

TEXTS = {
    "english": " ".join(
        f"The quick lamp, {n} near the solar river; a windowed table!" for n in range(90)
    ),
    "numbers": "".join(f"{number * 7919} 0x{number:06x} " for number in range(300)),
    "chinese": "".join(f"今天{n}的天气很好,我们去公园散步。搜索引擎的结果。" for n in range(60)),
    "mixed": "".join(
        f"Příliš žluťoučký kůň {n} 👩\u200d🚀 पत्र שלום\n\n\tnaïve e\u0301tude " for n in range(40)
    ),
    "endless": "".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(60)),
    "blanks": "first " + " " * 3000 + "\n" * 300 + "".join(f" last word {n}" for n in range(99)),
}
"""Numbered, so that no long window occurs twice."""


def train(kind: str) -> Tokenizer:
    """Return a small tokenizer that knows some of the texts."""
    corpus = [text[:400] for text in TEXTS.values()] + [" ".join(WORDS)]
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300,
            special_tokens=["<s>", "</s>", "<unk>"],
            unk_token="<unk>",  # noqa: S106
        )
    tokenizer.train_from_iterator(corpus, trainer)
    if kind == "unigram":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    tokenizer.enable_truncation(max_length=64)  # as published files often have it
    tokenizer.enable_padding(length=64)
    return tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the tokenizers; the wordllama wheel's is among them where it is installed."""
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for kind in ("bytes", "unigram"):
        found[kind] = folder / f"{kind}.json"
        train(kind).save(str(found[kind]))
    spec = importlib.util.find_spec("wordllama")
    if spec is not None and spec.submodule_search_locations:
        root = Path(spec.submodule_search_locations[0])
        found["llama"] = root / "tokenizers" / "l2_supercat_tokenizer_config.json"
    return found


def load(path: Path) -> TokenCounter:
    """Return the counter of a file."""
    return make_counter(TokenizerFile(str(path), "", path.read_bytes()))


def count(path: Path, text: str) -> int:
    """Count in the plainest way."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


KINDS = ("bytes", "unigram", "llama")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_windows_fit_when_counted_again_and_cover_the_text(
    files: dict[str, Path], kind: str, name: str
) -> None:
    """Each window is at most the limit by the tokenizer itself; only white space is left out."""
    if kind not in files:
        pytest.skip("wordllama is not installed")
    text, counter = TEXTS[name], load(files[kind])
    for limit, overlap in ((29, 7), (200, 32)):
        windows = counter.cut(text, limit, overlap)
        assert len(windows) > 1
        assert counter.count(pa.array(windows)).max() <= limit
        assert all(window.strip() for window in windows)
        covered = 0
        for window in windows:
            places = [at for at in range(len(text)) if text.startswith(window, at)]
            starts = [at for at in places if not text[covered:at].strip()]
            assert starts
            covered = max(starts) + len(window)
        assert not text[covered:].strip()


@pytest.mark.parametrize("kind", KINDS)
def test_windows_use_the_limit(files: dict[str, Path], kind: str) -> None:
    """Ordinary text is cut into no more windows than a fifth above the fewest possible."""
    if kind not in files:
        pytest.skip("wordllama is not installed")
    text, counter = TEXTS["english"], load(files[kind])
    windows = counter.cut(text, 300, 32)
    fewest = -(-(count(files[kind], text) - 32) // (300 - 32))
    assert len(windows) <= max(fewest + 1, fewest * 1.2)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_truncation_fits_when_counted_again(files: dict[str, Path], kind: str, name: str) -> None:
    """What is kept begins the text, fits by the tokenizer, and uses most of the limit."""
    if kind not in files:
        pytest.skip("wordllama is not installed")
    text, counter = TEXTS[name], load(files[kind])
    head = counter.truncate(text, 100)
    assert text.startswith(head)
    assert head.strip()
    assert count(files[kind], head) <= 100
    assert count(files[kind], head) >= 70 or name == "blanks"


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_the_tokenizers(files: dict[str, Path], kind: str) -> None:
    """Special tokens, truncation and padding of the file play no part."""
    if kind not in files:
        pytest.skip("wordllama is not installed")
    counter = load(files[kind])
    texts = [*TEXTS.values(), "", "a"]
    assert counter.count(pa.array(texts)).tolist() == [count(files[kind], text) for text in texts]
    assert counter.cut("short", 16, 4) == ["short"]
    assert counter.truncate("short", 16) == "short"


def test_a_plan_counts_by_the_tokenizer(files: dict[str, Path], tmp_path: Path) -> None:
    """Every passage's tokens are those of query and passage; a long document becomes windows."""
    rows = make_rows(3, 4)
    rows[0]["document"] = TEXTS["english"]
    write_rows(tmp_path / "candidates.parquet", rows)
    context = {"tokens": 256, "overlap_tokens": 32, "tokenizer": str(files["bytes"])}
    job = make_job(tmp_path, context=context)
    file = read_tokenizer(job)
    assert file is not None
    folder = tmp_path / "work"
    folder.mkdir()
    table = open_input(job, "_all")
    draft = build_plan(
        job, table, salt=b"s" * 32, library=None, folder=folder, counter=make_counter(file)
    )
    passages = [
        row for batch in read_batches(draft.work_file("passages", 0)) for row in batch.to_pylist()
    ]
    assert {row["windows"] for row in passages} > {1}
    for row in passages:
        query, passage = (count(files["bytes"], row[name]) for name in ("query", "text"))
        assert row["tokens"] == query + passage <= 256 - 3
        assert row["chunks"] == billing_chunks(query, pa.array([passage]).to_numpy())[0]
    assert draft.promise.tokens == sum(row["tokens"] for row in passages)


def test_contents_name_the_plan_not_the_path(files: dict[str, Path], tmp_path: Path) -> None:
    """A tokenizer that moved is the same plan; another one, or none, is another plan."""
    write_rows(tmp_path / "candidates.parquet", make_rows(2, 3))
    (tmp_path / "a.json").write_bytes(files["bytes"].read_bytes())
    (tmp_path / "b.json").write_bytes(files["bytes"].read_bytes())
    (tmp_path / "c.json").write_bytes(files["unigram"].read_bytes())

    def plan(name: str | None) -> str:
        return preview_partition(make_job(tmp_path, context={"tokenizer": name})).plan_id

    assert plan("a.json") == plan("b.json")
    assert len({plan("a.json"), plan("c.json"), plan(None)}) == 3


def test_a_frozen_plan_needs_no_tokenizer_package(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package planning says what to install; a frozen plan is found by the file."""
    write_rows(tmp_path / "candidates.parquet", make_rows(2, 3))
    job = make_job(tmp_path, context={"tokenizer": str(files["bytes"])})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(JobError, match=r"pip install 'rerank-jobs\[tokenizers\]'"):
            plan_partition(job)
    frozen = plan_partition(job)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert plan_partition(job).plan_id == frozen.plan_id


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe", json.dumps({"model": 1}).encode(), None])
def test_what_is_no_tokenizer_is_named(content: bytes | None, tmp_path: Path) -> None:
    """A missing file and one that is no tokenizer are errors of the job, by path."""
    write_rows(tmp_path / "candidates.parquet", make_rows(2, 3))
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    job = make_job(tmp_path, context={"tokenizer": "t.json"})
    with pytest.raises(JobError, match=r"t\.json.*tokenizer"):
        plan_partition(job)
