"""``python -m rerank_jobs`` is ``rerank-jobs``."""

import sys

from rerank_jobs.cli import main

if __name__ == "__main__":
    sys.exit(main())
