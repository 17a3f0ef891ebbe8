"""What obstore raises, as errors of ours: which object, a short reason, no URL, key or token.

obstore's own messages hold whole requests and replies; an Azure URL may carry its signature.
"""

from __future__ import annotations

import errno
import re

from obstore.exceptions import (
    AlreadyExistsError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from rerank_jobs.errors import JobError

__all__ = ["explain"]

_STATUS = re.compile(r"status code: (\d{3} [A-Za-z ]{1,40})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_MISSING_BUCKET = re.compile(
    r"<Code>(NoSuchBucket|ContainerNotFound)</Code>|specified bucket does not exist"
)
_REASONS = (
    ("ConnectionRefused", "connection refused"),
    ("dns error", "the host's name cannot be resolved"),
    ("URL scheme is not allowed", "an http:// endpoint must be set by AWS_ENDPOINT_URL"),
    ("certificate", "the server's certificate is not trusted"),
    ("credential", "no credentials were found"),
    ("error sending request", "the connection broke"),
)


def explain(
    error: Exception, location: str, name: str, *, writing: bool = False
) -> OSError | JobError:
    """Return the error to raise instead of ``error``.

    ``writing``: the request can only find a bucket missing, not an object.
    """
    where = f"{location}/{name}" if name else location
    text = str(error)
    reason = _find_reason(text)
    absent = isinstance(error, FileNotFoundError) or " 404 " in text
    if _MISSING_BUCKET.search(text) or (writing and absent):
        return JobError(f"{location}: there is no such bucket: create it, or correct the path")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object", where)
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if refused or reason.startswith(("401", "403")):  # a listing has no error class of its own
        return PermissionError(errno.EACCES, f"access denied ({reason})", where)
    if isinstance(error, AlreadyExistsError):
        return OSError(errno.EBUSY, "another create is in flight and leaves nothing", where)
    if "timed out" in text or "TimedOut" in text:
        return TimeoutError(errno.ETIMEDOUT, "timed out", where)
    return OSError(errno.EIO, reason, where)


def _find_reason(text: str) -> str:
    found = [
        match.group(1).strip() for match in (_STATUS.search(text), _CODE.search(text)) if match
    ]
    if found:
        return ", ".join(found)
    return next((reason for mark, reason in _REASONS if mark in text), "the object store failed")
