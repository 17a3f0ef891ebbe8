"""``init``: a commented job file to start from."""

from __future__ import annotations

import argparse

from rerank_jobs.errors import JobError

__all__ = ["TEMPLATE", "init"]

TEMPLATE = """\
# A rerank job. Relative paths start at this file's folder. Check it with: rerank-jobs doctor {name}
name: shop

input:
  path: candidates/{{partition}}     # a file, a folder, or a hive-partitioned folder; {{partition}} is optional
  layout: long                     # long: a row per pair | nested: a list of candidates per query | search_log
  columns:                         # role: your column
    query_id: query_id
    query: query
    document_id: doc_id
    document: [title, text]        # one text column is sent as it is; several are rendered as YAML, first field first
    first_stage_score: first_stage_score   # optional, higher is better
    first_stage_rank: first_stage_rank     # optional, 1 is best
    # candidates: results          # nested and search_log: the list column; the roles above but query name its fields
    # search_id: search_id         # search_log: names a logged search
    # position: position           # search_log: where a result was shown
    # clicked: clicked             # search_log: whether it was clicked
  on_bad_rows: reject              # reject: put bad rows aside with a reason | fail

partition: {{template: "ds={{key}}"}}  # --partition 2026-11-22 reads and writes ds=2026-11-22

candidates: {{top_k: 100}}           # rerank only the first 100 of each query: cuts before paying

output: {{path: out/shop}}           # published tables only: a folder, or s3://bucket/folder
# state: {{path: out/shop.state}}    # plans, paid scores, manifests; default: beside the output

endpoint:
  url: embedded                    # embedded: offline stand-in, free | https://openrouter.ai/api/v1
  dialect: openrouter              # the wire format: openrouter | cohere | jina | voyage | vllm | tei | infinity | nim | bedrock
  model: cohere/rerank-v3.5
  api_key_env: OPENROUTER_API_KEY  # the variable that holds the key; the key itself never stands here
  # requests_per_minute: 1000      # default: 1000 for a remote endpoint, unpaced for the embedded one
  # tokens_per_minute: 2000000     # for providers that limit tokens too
  # share: 1.0                     # this process's part of both limits, where several share them
  # limit_store: redis://127.0.0.1:6379  # or: one limit of all processes together, kept in Redis
  # limit_store_password_env: LIMIT_STORE_PASSWORD  # the variable that holds its password
  # limit_name: shop-account       # who shares it; by default whoever has the same host and key
  # limit_window_seconds: 60       # in which the endpoint counts
  # max_concurrency: 32
  # timeout_seconds: 90            # a request that timed out may have been billed: keep it long
  # patience_seconds: 600          # stop, resumable, when nothing succeeded for so long
  # usd_per_search: 0.001          # what a search unit is planned with; replies say the truth
  # usd_per_million_tokens: 0.05   # for models that are priced by tokens
  # revision: ""                   # change it to leave earlier scores behind, say after a model update
  # listwise: false                # true: a score depends on the other documents of its request
  # provider: {{data_collection: deny}}  # OpenRouter's routing preferences: order, only, ignore, zdr, max_price, ...
  # options: {{}}                    # fields that the dialect knows besides
  # user: nightly                  # user, session_id, trace: for OpenRouter's logs; they change no score
  # session_id: shop-nightly
  # trace: {{trace_name: shop}}
  # app: {{url: "https://shop.example", title: Shop, categories: []}}  # OpenRouter's app attribution
  # headers: {{X-Team: search}}      # sent with every request
  # secret_headers: {{X-Gateway-Token: GATEWAY_TOKEN}}  # header: the variable that holds its value
  # proxy: environment             # HTTPS_PROXY, NO_PROXY, ... | http://proxy.example:3128 | none unless named
  # ca_file: ca.pem                # certificates to trust besides the usual ones

context:
  tokens: 4096                     # of query and passage together
  long_documents: window           # window: score = best window | truncate | fail
  # overlap_tokens: 128
  # scope: pair                    # pair: each passage with its query fits | request: a whole request does
  # tokenizer: tokenizer.json      # counts exactly; default: an estimate with a margin

budget:
  max_usd: 5.0                     # a plan that may cost more sends nothing
  # max_usd_per_day: 20.0          # the same for all that this state root spends in a UTC day,
  # max_usd_per_month: 400.0       # and in a UTC month

failures:
  on_failed: demote                # documents the endpoint refuses: demote | keep_first_stage | fail
  max_failed_fraction: 0.001       # publish nothing if more of them failed

reuse:
  mode: cheapest                   # cheapest: use earlier scores where that saves units | strict: always | off
  max_age_days: 90

publish:
  keep_generations: 1              # earlier tables that can be gone back to: rerank-jobs publish {name} --generation N
  # max_top1_changed: 0.8          # publish nothing if more of the groups get another first document than the first stage's,
  # max_top1_changed_since: 0.3    # or than in the table published before,
  # max_all_equal: 0.05            # or have one score for all their documents

# enrichment: {{time: searched_at}}  # search_log: when a search was made, for rerank-jobs enrich

memory: 1GB
# max_runtime: 2h                  # then stop, resumable
"""


def init(arguments: argparse.Namespace) -> int:
    """Write the template.

    Raises:
        JobError: the file exists, or cannot be created.

    """
    try:
        with arguments.path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=arguments.path.name))
    except FileExistsError:
        raise JobError(f"{arguments.path}: exists already: name another file") from None
    except OSError as error:
        raise JobError(f"{arguments.path}: cannot be created: {error.strerror}") from None
    print(
        f"Wrote {arguments.path}. Next: edit its paths and columns, then"
        f" rerank-jobs doctor {arguments.path}"
    )
    return 0
