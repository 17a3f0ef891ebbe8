"""CPU per request of our whole engine beside bare loops and the SDKs, on one load.

50 documents of 80 words a request, 64 in flight, a fast server in a process of its own; each client
in a fresh process, in interleaved rounds. CPU is that of the client's process alone, all threads.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from statistics import median

import orjson

from benchmarks.load import DOCUMENTS, IN_FLIGHT, WORDS
from benchmarks.server import serve_apart

TIMEOUT_SECONDS = 120


@dataclass(slots=True)
class Client:
    """A client by its name in ``runners``, how many requests it gets, and what came of them."""

    label: str
    name: str
    requests: int
    rounds: list[dict[str, float]] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    def list_costs(self) -> list[float]:
        """Return CPU seconds per 1,000 requests of each round."""
        return [figures["cpu"] * 1000 / self.requests for figures in self.rounds]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    # The slow ones get fewer requests: what counts is CPU per request.
    clients = [
        Client("(a) bare aiohttp + orjson", "aiohttp", 6000),
        Client("(b) bare httpx over httpx-aiohttp", "httpx", 4000),
        Client("(c) cohere AsyncClientV2", "cohere", 1000),
        Client("(d) openrouter SDK", "openrouter", 400),
        Client("(e) our whole engine, ledger on", "engine", 6000),
    ]
    with serve_apart() as url:
        for _ in range(rounds):
            for client in clients:
                run(client, url)
    show(clients)


def run(client: Client, url: str) -> None:
    """Measure a client once in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.runners", client.name, url, str(client.requests)]
    reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=TIMEOUT_SECONDS)
    figures = orjson.loads(reply.stdout)
    client.lags += figures.pop("lags")
    client.rounds.append(figures)


def show(clients: list[Client]) -> None:
    """Print one line per client; ratios are to (a) of the same run, best to best."""
    print(
        f"{DOCUMENTS} documents x {WORDS} words a request, {IN_FLIGHT} in flight,"
        f" {len(clients[0].rounds)} rounds"
    )
    print(f"  {'':<34} {'CPU-s per 1,000':>16} {'x (a)':>12} {'requests/s':>11} {'peak':>7}")
    print(f"  {'':<34} {'best':>8}{'median':>8} {'best':>6}{'med.':>6} {'best':>11} {'MB':>7}")
    base = clients[0].list_costs()
    for client in clients:
        costs = client.list_costs()
        per_second = max(client.requests / figures["wall"] for figures in client.rounds)
        peak = max(figures["peak_mb"] for figures in client.rounds)
        print(
            f"  {client.label:<34} {min(costs):8.3f}{median(costs):8.3f}"
            f" {min(costs) / min(base):6.2f}{median(costs) / median(base):6.2f}"
            f" {per_second:11,.0f} {peak:7.0f}"
        )
    print("  event-loop lag in ms, a task that sleeps 5 ms:      p50    p99    max")
    for client in (clients[0], clients[-1]):
        lags = sorted(client.lags)
        at = [lags[len(lags) // 2], lags[int(len(lags) * 0.99)], lags[-1]]
        print(f"    {client.label:<46}" + "".join(f"{lag * 1000:7.1f}" for lag in at))


if __name__ == "__main__":
    main()
