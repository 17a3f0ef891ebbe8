"""Name the script that a text is written in: what token estimates are wrong by depends on it."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["SCRIPTS", "name_script"]

SCRIPTS = (
    "other",
    "latin",
    "greek",
    "cyrillic",
    "hebrew",
    "arabic",
    "indic",
    "thai",
    "hangul",
    "kana",
    "han",
)
"""Every name that ``name_script`` can give."""

_LOOKED_AT = 200
"""Characters at the start of a text that decide."""

_KANA_SHARE = 8
"""Japanese mixes both: from one kana in so many Han and kana characters on, a text is Japanese."""

_NEUTRAL = len(SCRIPTS)
"""What belongs to no script: spaces, digits, punctuation."""

_RANGES = (
    # Last assignment wins. Letters that are not named here are of another script.
    (0x0000, 0x0040, None),
    (0x0041, 0x024F, "latin"),
    (0x005B, 0x0060, None),
    (0x007B, 0x00A9, None),
    (0x00AB, 0x00B4, None),
    (0x00B6, 0x00B9, None),
    (0x00BB, 0x00BF, None),
    (0x00D7, 0x00D7, None),
    (0x00F7, 0x00F7, None),
    (0x0300, 0x036F, None),  # combining marks
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x077F, "arabic"),
    (0x0900, 0x0DFF, "indic"),  # Devanagari to Sinhala
    (0x0E00, 0x0E7F, "thai"),
    (0x1100, 0x11FF, "hangul"),
    (0x1E00, 0x1EFF, "latin"),
    (0x1F00, 0x1FFF, "greek"),
    (0x2000, 0x20CF, None),
    (0x2C60, 0x2C7F, "latin"),
    (0x3000, 0x303F, None),
    (0x3040, 0x30FF, "kana"),
    (0x3130, 0x318F, "hangul"),
    (0x31F0, 0x31FF, "kana"),
    (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7A3, "hangul"),
    (0xF900, 0xFAFF, "han"),
    (0xFB50, 0xFDFF, "arabic"),
    (0xFE00, 0xFE6F, None),
    (0xFE70, 0xFEFC, "arabic"),
    (0xFF00, 0xFF20, None),
    (0xFF21, 0xFF5A, "latin"),
    (0xFF66, 0xFF9F, "kana"),
    (0x20000, 0x323AF, "han"),
)


def name_script(text: str) -> str:
    """Return the script of most letters among the first 200 characters: one of ``SCRIPTS``.

    ASCII is latin. Han with kana among it is kana, as Japanese is written; a text without any
    letter is of another script.
    """
    head = text[:_LOOKED_AT]
    if head.isascii():
        return "latin"
    codes = np.frombuffer(head.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    counts = np.bincount(_script_table()[codes], minlength=_NEUTRAL + 1)[:_NEUTRAL]
    kana, han = SCRIPTS.index("kana"), SCRIPTS.index("han")
    if counts[kana] * _KANA_SHARE >= counts[kana] + counts[han]:
        counts[kana] += counts[han]
        counts[han] = 0
    return SCRIPTS[int(np.argmax(counts))]


@cache
def _script_table() -> npt.NDArray[np.uint8]:
    table = np.zeros(0x110000, dtype=np.uint8)
    for first, last, name in _RANGES:
        table[first : last + 1] = _NEUTRAL if name is None else SCRIPTS.index(name)
    return table
