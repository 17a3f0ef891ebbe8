"""The arguments of every command: each command names the module and the function that does it."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TypeAlias

from rerank_jobs import __version__
from rerank_jobs.drift import TOLERANCE
from rerank_jobs.places import ALL

__all__ = ["build_parser"]

EXIT_CODES = """exit codes:
  0    done
  2    the job file, the command or the input table is wrong
  3    stopped but resumable: budget, key, credit, quota or endpoint; run again to go on
  4    all scores are paid and kept, but a gate forbids publishing
  5    another live owner works on this partition
  6    another owner took over; what this run paid is sealed
  7    the canary moved: model, provider or scores are not what they were
  130  interrupted; what is paid is sealed, run again to go on
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="rerank-jobs",
        description="Rerank tables of search results in Parquet: priced first, paid once,"
        " resumable.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rerank-jobs {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_job_commands(commands)
    _add_retention_commands(commands)
    _add_ledger(commands)
    _add_canary(commands)
    _add_serve(commands)
    _add_other_commands(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def _add(commands: Commands, name: str, where: str, text: str) -> argparse.ArgumentParser:
    module, function = where.split(":")
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(module=module, function=function)
    return parser


def _add_job_commands(commands: Commands) -> None:
    run = _add(
        commands, "run", "run:run_job", "plan, score and publish a partition; resumes by itself"
    )
    plan = _add(
        commands, "plan", "run:plan_job", "print what a run would do and cost, and send nothing"
    )
    publish = _add(
        commands,
        "publish",
        "publish:publish",
        "publish what is scored, put back damaged files, or go back to an earlier generation",
    )
    paths = _add(commands, "paths", "paths:paths", "print the files of a generation, one a line")
    verify = _add(
        commands, "verify", "inspect:verify", "read what was published again and check it"
    )
    report = _add(
        commands, "report", "report:report", "say what a published generation did and cost"
    )
    evaluate = _add(
        commands, "evaluate", "inspect:evaluate", "measure nDCG@10, MRR and recall before and after"
    )
    enrich = _add(
        commands,
        "enrich",
        "enrich:enrich",
        "summarise a published search log: clicked results before and after, by search and day",
    )
    doctor = _add(
        commands, "doctor", "doctor:doctor", "check key, paths, disk, endpoint and clock for a job"
    )
    for parser in (run, plan, publish, paths, verify, report, evaluate, enrich, doctor):
        parser.add_argument("job", type=Path, help="the job file (YAML)")
        parser.add_argument(
            "--partition", metavar="KEY", default=ALL, help="partition key, such as 2026-11-22"
        )
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object as the only output"
        )
    _add_run_options(run, plan)
    _add_generations(publish, paths)
    _add_report_options(report)
    _add_evaluate_options(evaluate)


def _add_run_options(run: argparse.ArgumentParser, plan: argparse.ArgumentParser) -> None:
    for parser in (run, plan):
        parser.add_argument(
            "--limit-queries",
            type=_positive,
            metavar="N",
            help="a paid sample of N queries: scored and kept for the full run, but not published",
        )
    run.add_argument(
        "--retry-failed",
        action="store_true",
        help="send once more what the endpoint refused earlier",
    )
    run.add_argument(
        "--extra-usd",
        type=_dollars,
        default=0.0,
        metavar="USD",
        help="spend so much beyond the allowance, where replies cost more than planned",
    )


def _add_evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument(
        "--qrels", type=Path, required=True, help="judgements: Parquet, CSV, TSV or TREC"
    )
    evaluate.add_argument(
        "--judged-only", action="store_true", help="leave out candidates without a judgement"
    )
    evaluate.add_argument(
        "--count-none-relevant",
        action="store_true",
        help="count queries without a relevant document as 0, as trec_eval, not leave them out",
    )
    evaluate.add_argument(
        "--by", metavar="COLUMN", help="one line per value of a column, such as lang"
    )


def _add_generations(publish: argparse.ArgumentParser, paths: argparse.ArgumentParser) -> None:
    publish.add_argument(
        "--generation",
        type=_positive,
        metavar="N",
        help="go back to a retained generation: its files are published again as the next one",
    )
    which = paths.add_mutually_exclusive_group()
    which.add_argument(
        "--generation",
        type=_positive,
        metavar="N",
        help="the files of a retained generation (an earlier one's lie in the state folder)",
    )
    which.add_argument(
        "--generations", action="store_true", help="list all generations, newest first"
    )


def _add_report_options(report: argparse.ArgumentParser) -> None:
    report.add_argument(
        "--generation", type=_positive, metavar="N", help="an earlier generation than the current"
    )
    report.add_argument(
        "--html", type=Path, metavar="FILE", help="write it as a page that stands alone, too"
    )


def _add_retention_commands(commands: Commands) -> None:
    gc = _add(
        commands,
        "gc",
        "gc:collect_garbage",
        "list what nothing needs any more; --delete removes it",
    )
    erase = _add(
        commands,
        "erase",
        "erase:erase_texts",
        "say what erasing queries or documents would touch; --yes erases them",
    )
    for parser in (gc, erase):
        parser.add_argument("job", type=Path, help="the job file (YAML)")
        parser.add_argument(
            "--partition",
            metavar="KEY",
            action="append",
            help="only this partition (may be given again); without it all of them",
        )
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object as the only output"
        )
    gc.add_argument("--delete", action="store_true", help="remove it")
    gc.add_argument(
        "--grace-hours",
        type=_positive,
        default=24,
        metavar="H",
        help="leave what was written in the last H hours (default: 24)",
    )
    gc.add_argument(
        "--keep-days",
        type=_positive,
        default=62,
        metavar="D",
        help="leave segments of the last D days and of this month (default: 62)",
    )
    which = erase.add_mutually_exclusive_group(required=True)
    which.add_argument("--query-id", metavar="ID", help="all that belongs to this query")
    which.add_argument("--document-id", metavar="ID", help="this document, in every query's list")
    which.add_argument(
        "--text-file",
        type=Path,
        metavar="FILE",
        help="queries and documents with exactly these texts: UTF-8, one a line",
    )
    erase.add_argument("--yes", action="store_true", help="erase, rather than say what would go")


def _add_ledger(commands: Commands) -> None:
    ledger = commands.add_parser("ledger", help="count, compact, export or import paid scores")
    actions = ledger.add_subparsers(title="actions", required=True, metavar="ACTION")
    counted = _add(actions, "stats", "ledger:stats", "print what is paid and kept, by scorer")
    merged = _add(actions, "compact", "ledger:compact", "bring all sealed scores into one file")
    taken = _add(
        actions, "export", "ledger:export", "write scores to a file, by key or with their texts"
    )
    brought = _add(
        actions, "import", "ledger:import_file", "take in scores that were paid elsewhere"
    )
    for parser in (counted, merged, taken, brought):
        parser.add_argument("job", type=Path, help="the job file (YAML)")
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object as the only output"
        )
    taken.add_argument(
        "--to", type=Path, required=True, metavar="FILE", help="a new .parquet or .csv file"
    )
    taken.add_argument(
        "--partition",
        metavar="KEY",
        help="with the texts of this published partition (_all: not partitioned), for an import"
        " elsewhere",
    )
    brought.add_argument("file", type=Path, help="scores as .csv or .parquet")
    brought.add_argument(
        "--columns",
        metavar="NAME=COLUMN,...",
        help="where query, document, score, model, date, provider or parts have other names",
    )
    brought.add_argument(
        "--any-model", action="store_true", help="take scores of other models than the job's too"
    )


def _add_canary(commands: Commands) -> None:
    canary = _add(
        commands,
        "canary",
        "canary:canary",
        "score a fixed query with 20 documents and say whether the model is what it was",
    )
    canary.add_argument("job", type=Path, help="the job file (YAML)")
    canary.add_argument(
        "--json", action="store_true", help="print one JSON object as the only output"
    )
    canary.add_argument(
        "--tolerance",
        type=_amount,
        default=TOLERANCE,
        metavar="X",
        help=f"how far a score may move and count as the same (default: {TOLERANCE:g})",
    )
    canary.add_argument(
        "--accept", action="store_true", help="compare later readings with this one"
    )


def _add_serve(commands: Commands) -> None:
    serve = _add(commands, "serve", "serve:serve", "serve the embedded rerank endpoint on a port")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: loopback)"
    )
    serve.add_argument(
        "--port", type=_port, default=8787, help="0 takes a free one (default: 8787)"
    )
    serve.add_argument(
        "--scorer",
        choices=("lexical", "instant"),
        default="lexical",
        help="instant: meaningless scores at once, for load tests",
    )
    serve.add_argument(
        "--latency-ms", type=_amount, default=0.0, metavar="MS", help="delay of each reply"
    )
    serve.add_argument(
        "--usd-per-search",
        type=_amount,
        default=0.001,
        metavar="USD",
        help="what a search unit is said to cost (default: 0.001, as the API)",
    )
    _add_limits(serve)


def _add_limits(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--requests-per-minute", type=_positive, metavar="N", help="answer 429 beyond"
    )
    serve.add_argument("--tokens-per-minute", type=_positive, metavar="N", help="the same, tokens")
    serve.add_argument(
        "--window-seconds",
        type=_positive,
        default=60,
        metavar="S",
        help="length of the window that the rates are counted in (default: 60)",
    )
    serve.add_argument(
        "--window-kind",
        choices=("sliding", "counting", "fixed"),
        default="sliding",
        help="sliding: strict; counting: refused requests take room too; fixed: by the clock",
    )
    serve.add_argument(
        "--credit-usd", type=_amount, metavar="USD", help="answer 402 once so much is billed"
    )
    serve.add_argument(
        "--faults", type=Path, metavar="FILE", help="what is to go wrong (docs/embedded.md)"
    )


def _add_other_commands(commands: Commands) -> None:
    init = _add(commands, "init", "init:init", "write a commented job file")
    init.add_argument("path", type=Path, nargs="?", default=Path("rerank.yaml"))
    demo = _add(
        commands, "demo", "demo:demo", "rerank a table made from Python's own documentation"
    )
    demo.add_argument(
        "--folder", type=Path, default=Path("demo"), help="where to put it (default: demo)"
    )
    demo.add_argument("--partition", metavar="KEY", default="2026-11-22")


def _dollars(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, got {text!r}")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a number from 0, got {text!r}")
    return value
