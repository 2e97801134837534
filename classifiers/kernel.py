"""Compiled loops over the UTF-8 bytes of Arrow string columns: hashes, counts and cuts.

All functions take a batch as `data` (uint8, the bytes of all texts) and `starts`, `ends` (int64 byte offsets, one pair
a text, in any order, may overlap). They run without the GIL, keep no state, and give for each text a result that
depends on its bytes alone. Offsets outside `data` raise ValueError; bytes that are no UTF-8 give some result, never a
read out of bounds. `warm_up` compiles them, and those of fastText, at a time of the caller's choosing.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from classifiers import outputs
from classifiers.compiled import (
    CONTINUES,
    P1,
    P2,
    TOPS,
    U64,
    compiled,
    count_ones,
    integer,
    leading_zeros,
    load64,
    rotate,
)
from classifiers.compiled import Bytes as Bytes
from classifiers.compiled import Digests as Digests
from classifiers.compiled import Offsets as Offsets

# --- XXH64: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md --------------------------------------

_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@compiled
def _round(lane: U64, word: U64) -> U64:
    return rotate(lane + word * P2, 31) * P1


@compiled
def _avalanche(h: U64) -> U64:
    h = (h ^ (h >> np.uint64(33))) * P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@compiled
def _stripes(data: Bytes, at: int, end: int) -> U64:
    """The state after all whole 32-byte stripes from `at` on, seed 0."""
    a, b, c, d = P1 + P2, P2, np.uint64(0), np.uint64(0) - P1
    while at + 32 <= end:
        a = _round(a, load64(data, at))
        b = _round(b, load64(data, at + 8))
        c = _round(c, load64(data, at + 16))
        d = _round(d, load64(data, at + 24))
        at += 32
    h = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18)
    for lane in (a, b, c, d):
        h = (h ^ _round(np.uint64(0), lane)) * P1 + _P4
    return h


@compiled
def _digest_of(data: Bytes, start: int, end: int) -> U64:
    size = end - start
    h = _stripes(data, start, end) if size >= 32 else _P5
    h += np.uint64(size)
    at = start + size // 32 * 32
    while at + 8 <= end:
        h = rotate(h ^ _round(np.uint64(0), load64(data, at)), 27) * P1 + _P4
        at += 8
    if at + 4 <= end:
        half = np.uint64(0)
        for i in range(4):
            half |= np.uint64(data[at + i]) << np.uint64(8 * i)
        h = rotate(h ^ (half * P1), 23) * P2 + _P3
        at += 4
    while at < end:
        h = rotate(h ^ (np.uint64(data[at]) * _P5), 11) * P1
        at += 1
    return _avalanche(h)


@compiled
def _digest(data: Bytes, starts: Offsets, ends: Offsets, out: Digests) -> None:
    for i in range(len(starts)):
        out[i] = _digest_of(data, starts[i], ends[i])


@compiled
def _mix64(values: Digests, key: U64, out: Digests) -> None:
    for i in range(len(values)):
        h = key + _P5 + np.uint64(8)
        h = rotate(h ^ _round(np.uint64(0), values[i]), 27) * P1 + _P4
        out[i] = _avalanche(h)


# --- words, windows and characters ------------------------------------------------------------------------------

_ONES = np.uint64(0x0101010101010101)


@compiled
def _space_at(data: Bytes, at: int, end: int) -> int:
    """Length in bytes of the character at `at` where `str.isspace` splits words (`str.split`), else 0."""
    b = data[at]
    if b < 0x80:
        return 1 if b == 0x20 or 9 <= b <= 13 or 0x1C <= b <= 0x1F else 0
    if b == 0xC2:
        return 2 if at + 1 < end and (data[at + 1] == 0x85 or data[at + 1] == 0xA0) else 0
    if b < 0xE1 or b > 0xE3 or at + 2 >= end:
        return 0
    c, d = data[at + 1], data[at + 2]
    if b == 0xE1:
        return 3 if c == 0x9A and d == 0x80 else 0  # U+1680
    if b == 0xE3:
        return 3 if c == 0x80 and d == 0x80 else 0  # U+3000
    if c == 0x80:  # U+2000..200A, 2028, 2029, 202F
        return 3 if 0x80 <= d <= 0x8A or d == 0xA8 or d == 0xA9 or d == 0xAF else 0
    return 3 if c == 0x81 and d == 0x9F else 0  # U+205F


@compiled
def _spaces(eight: U64) -> U64:
    """Top bits of the bytes that are ASCII whitespace: 9-13 and 1C-20. Exact: no sum carries into the next byte."""
    low = eight & ~TOPS
    controls = (low + np.uint64(0x77) * _ONES) & ~(low + np.uint64(0x72) * _ONES)
    return (controls | ((low + np.uint64(0x64) * _ONES) & ~(low + np.uint64(0x5F) * _ONES))) & ~eight & TOPS


@compiled
def _may_hold_wide_space(eight: U64) -> bool:
    """Whether a byte is C2 or E1-E3: all whitespace outside ASCII begins so."""
    low = eight & ~TOPS
    latin = TOPS - (low ^ np.uint64(0x42) * _ONES)
    wide = (low + np.uint64(0x1F) * _ONES) & ~(low + np.uint64(0x1C) * _ONES)
    return bool((latin | wide) & eight & TOPS)


@compiled
def _word_starts(spaces: U64, inside: bool) -> U64:  # noqa: FBT001  # numba inlines it
    """Top bits of the bytes at which a word begins; `inside`: the byte before these eight is in a word."""
    before = np.uint64(0 if inside else 0x80)
    return ~spaces & (spaces << np.uint64(8) | before) & TOPS


@compiled
def _count_words_of(data: Bytes, at: int, end: int) -> int:
    words, inside = 0, False
    while at < end:
        eight = load64(data, at) if at + 8 <= end else np.uint64(0)
        if at + 8 <= end and not _may_hold_wide_space(eight):
            spaces = _spaces(eight)
            words += integer(count_ones(_word_starts(spaces, inside)))
            inside = spaces >> np.uint64(63) == 0
            at += 8
            continue
        stop = min(at + 8, end)
        while at < stop:
            space = _space_at(data, at, end)
            words += space == 0 and not inside
            inside = space == 0
            at += max(space, 1)
    return words


@compiled
def _count_words(data: Bytes, starts: Offsets, ends: Offsets, out: Offsets) -> None:
    for i in range(len(starts)):
        out[i] = _count_words_of(data, starts[i], ends[i])


@compiled
def _boundary(data: Bytes, at: int, floor: int) -> int:
    """The last start of a character at or before `at`, at most 3 bytes back and above `floor` (else `at`)."""
    for back in range(4):
        if at - back <= floor:
            return at
        if (data[at - back] & CONTINUES) != 0x80:
            return at - back
    return at


@compiled
def _windows_of(data: Bytes, start: int, end: int, words: int, size: int, cuts: Offsets) -> int:
    """Write the ends of one text's windows into `cuts`; their number is returned, also where `cuts` is too short."""
    count, begin, at, inside, seen, word = 0, start, start, False, 0, start
    while at < end:
        if at + 8 <= end and at + 8 - begin <= size:  # eight bytes at once, as long as no window can end in them
            eight = load64(data, at)
            spaces = _spaces(eight)
            begun = _word_starts(spaces, inside)
            fresh = integer(count_ones(begun))
            if seen + fresh <= words and not _may_hold_wide_space(eight):
                if fresh:
                    word = at + 7 - integer(leading_zeros(begun) >> np.uint64(3))
                seen, inside = seen + fresh, spaces >> np.uint64(63) == 0
                at += 8
                continue
        space = _space_at(data, at, end)
        if space == 0 and not inside:
            word = at
            seen += 1
        inside = space == 0
        cut = begin
        if seen > words:
            cut = word
        elif at + max(space, 1) - begin > size:
            cut = word if inside and word > begin else _boundary(data, at, begin)
        if cut > begin:
            if count < len(cuts):
                cuts[count] = cut
            count += 1
            begin = cut
            seen = 1 if inside else 0
            word = max(word, begin)
        at += max(space, 1)
    short = seen * 4 < words and (end - begin) * 4 < size
    if count == 0 or not short:
        count += 1
    if count <= len(cuts):
        cuts[count - 1] = end
    return count


@compiled
def _windows(
    data: Bytes, starts: Offsets, ends: Offsets, words: int, size: int, rows: Offsets, begins: Offsets, cuts: Offsets
) -> int:
    """Fill `rows`, `begins`, `cuts` as far as they reach; the number of windows is returned."""
    total = 0
    for i in range(len(starts)):
        count = _windows_of(data, starts[i], ends[i], words, size, cuts[total:])
        for k in range(total, min(total + count, len(cuts))):
            rows[k] = i
            begins[k] = starts[i] if k == total else cuts[k - 1]
        total += count
    return total


@compiled
def _clip_of(data: Bytes, start: int, end: int, characters: int) -> int:
    if end - start <= characters:
        return end
    at, left = start, characters
    while at + 8 <= end and left >= 8:
        eight = load64(data, at)
        left -= 8 - integer(count_ones(eight & ~(eight << np.uint64(1)) & TOPS))
        at += 8
    while at < end:
        if (data[at] & CONTINUES) != 0x80:
            if left == 0:
                return at
            left -= 1
        at += 1
    return end


@compiled
def _clip(data: Bytes, starts: Offsets, ends: Offsets, characters: int, out: Offsets) -> None:
    for i in range(len(starts)):
        out[i] = _clip_of(data, starts[i], ends[i], characters)


# --- the same for callers: checked, typed -----------------------------------------------------------------------


def batch(data: npt.NDArray[Any], starts: npt.NDArray[Any], ends: npt.NDArray[Any]) -> tuple[Bytes, Offsets, Offsets]:
    """Check a batch and return it as read-only views, so that each kernel is compiled for one kind of array only.

    Raises:
      ValueError: `data` is not uint8, or an offset lies outside it or before its start.
    """
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(f"data has type {data.dtype} and {data.ndim} dimensions; it must be uint8 with one.")
    if starts.shape != ends.shape or starts.ndim != 1:
        raise ValueError(f"starts has shape {starts.shape} and ends {ends.shape}; both must be (n,).")
    starts, ends = _frozen(starts, np.int64), _frozen(ends, np.int64)
    if len(starts) and (starts.min() < 0 or ends.max() > len(data) or (starts > ends).any()):
        wrong = int(np.flatnonzero((starts < 0) | (ends > len(data)) | (starts > ends))[0])
        raise ValueError(f"text {wrong} lies at bytes {starts[wrong]} to {ends[wrong]} of {len(data)}.")
    return _frozen(data, np.uint8), starts, ends


def _frozen(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def count_words(data: Bytes, starts: Offsets, ends: Offsets) -> Offsets:
    """Number of words of each text, int64 (n,): `len(text.split())`, so words end at any Unicode whitespace."""
    data, starts, ends = batch(data, starts, ends)
    out = np.empty(len(starts), np.int64)
    _count_words(data, starts, ends, out)
    return out


def digest(data: Bytes, starts: Offsets, ends: Offsets) -> Digests:
    """XXH64 with seed 0 of each text's bytes, uint64 (n,): `xxhash.xxh64_intdigest(text)` recomputes it."""
    data, starts, ends = batch(data, starts, ends)
    out = np.empty(len(starts), np.uint64)
    _digest(data, starts, ends, out)
    return out


def mix64(values: Digests, key: int) -> Digests:
    """Keyed hash of each value, uint64 (n,), one-to-one for each key.

    `xxhash.xxh64_intdigest(value.to_bytes(8, "little"), seed=key)` recomputes it. `key` lies in [0, 2**64).
    """
    if not 0 <= int(key) < 1 << 64:
        raise ValueError(f"key is {key}; it must lie in [0, 2**64).")
    values = _frozen(values, np.uint64)
    out = np.empty(len(values), np.uint64)
    _mix64(values, np.uint64(key), out)
    return out


def windows(
    data: Bytes, starts: Offsets, ends: Offsets, words_per_window: int, max_window_bytes: int = 16384
) -> tuple[Offsets, Offsets, Offsets]:
    """Cut each text into windows that follow each other without gap or overlap and together are the text.

    A window ends before a word (as `count_words` has them) once it holds `words_per_window` words, or where the word
    would take it past `max_window_bytes`; a word longer than that is cut before a character. A last window with less
    than a quarter of both measures joins the one before, which then is up to a quarter over. An empty text is one
    empty window.

    Returns:
      Row of `starts`, begin and end of each window, int64 (m,) each with m >= n, in the order of the texts.
    """
    if words_per_window < 1 or max_window_bytes < 4:
        raise ValueError(f"a window of {words_per_window} words and {max_window_bytes} bytes; least are 1 and 4.")
    data, starts, ends = batch(data, starts, ends)
    capacity = len(starts) + int((ends - starts).sum()) // min(2 * words_per_window, max_window_bytes) + 16
    while True:
        out = [np.empty(capacity, np.int64) for _ in range(3)]
        needed = _windows(data, starts, ends, words_per_window, max_window_bytes, *out)
        if needed <= capacity:
            return out[0][:needed].copy(), out[1][:needed].copy(), out[2][:needed].copy()
        capacity = needed


def clip(data: Bytes, starts: Offsets, ends: Offsets, max_chars: int) -> Offsets:
    """End offset of the first `max_chars` characters of each text, int64 (n,); never inside a character."""
    if max_chars < 0:
        raise ValueError(f"max_chars is {max_chars}; it must not be negative.")
    data, starts, ends = batch(data, starts, ends)
    out = np.empty(len(starts), np.int64)
    _clip(data, starts, ends, max_chars, out)
    return out


def warm_up() -> None:
    """Compile every kernel, or load it from `__pycache__`: 8 to 10 s the first time on a machine, then 0.4 s.

    To be called where a delay does no harm: in a worker's setup, while an image is built.
    """
    data, starts, ends = np.frombuffer(b"warm up", np.uint8), np.zeros(1, np.int64), np.full(1, 7, np.int64)
    digest(data, starts, ends)
    count_words(data, starts, ends)
    clip(data, starts, ends, 3)
    windows(data, starts, ends, 1)
    mix64(np.zeros(1, np.uint64), 1)
    outputs.warm_up(*batch(data, starts, ends))
