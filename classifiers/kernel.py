"""Compiled loops over the UTF-8 bytes of Arrow string columns: hashes, counts, cuts and fastText scoring.

All functions take a batch as `data` (uint8, the bytes of all texts) and `starts`, `ends` (int64 byte offsets, one pair
a text, in any order, may overlap). They run without the GIL, keep no state, and give for each text a result that
depends on its bytes alone. Offsets outside `data` raise ValueError; bytes that are no UTF-8 give some result, never a
read out of bounds. numba compiles on first use (about 10 s in all) and keeps the machine code in `__pycache__`;
`warm_up` does that at a time of the caller's choosing.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]  # llvmlite ships no stubs
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

_Function = TypeVar("_Function", bound=Callable[..., Any])

if sys.byteorder != "little":  # pragma: no cover  # the words of `_load64` and the files of fastText are little-endian
    raise ImportError("classifiers.kernel needs a little-endian processor (x86-64 or arm64)")


# What compiled code computes with. mypy takes NumPy's scalars for objects that change their type at each operation; in
# numba they are machine words, so the checks stop at the edge of a kernel.
U64: TypeAlias = Any
U32: TypeAlias = Any
F32: TypeAlias = Any
_int = cast(Callable[[Any], int], np.int64)


def _compiled(function: _Function) -> _Function:
    """`numba.njit`, typed. No fastmath: sums keep their order, so results do not depend on the machine's vectors."""
    return cast(_Function, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def _instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.extending.intrinsic`, typed: the function writes machine code, and is called without `typing`."""
    return cast(Callable[..., Any], intrinsic(function))


# --- the machine's instructions that numba does not offer -------------------------------------------------------


@_instruction
def _load64(typing: Any, data: Any, index: Any) -> Any:
    """Eight bytes from any address as uint64, one instruction; the caller answers for the bounds."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        wide = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        loaded = builder.load(wide)
        loaded.align = 1
        return loaded

    return types.uint64(data, types.intp), generate


@_instruction
def _trailing_zeros(typing: Any, value: Any) -> Any:
    """Number of zero bits below the lowest set bit of a uint64 (64 for zero)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@_instruction
def _leading_zeros(typing: Any, value: Any) -> Any:
    """Number of zero bits above the highest set bit of a uint64 (64 for zero)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@_instruction
def _count_ones(typing: Any, value: Any) -> Any:
    """Number of set bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


# --- XXH64: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md --------------------------------------

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@_compiled
def _rotate(value: U64, bits: int) -> U64:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@_compiled
def _round(lane: U64, word: U64) -> U64:
    return _rotate(lane + word * _P2, 31) * _P1


@_compiled
def _avalanche(h: U64) -> U64:
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@_compiled
def _stripes(data: Bytes, at: int, end: int) -> U64:
    """The state after all whole 32-byte stripes from `at` on, seed 0."""
    a, b, c, d = _P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1
    while at + 32 <= end:
        a = _round(a, _load64(data, at))
        b = _round(b, _load64(data, at + 8))
        c = _round(c, _load64(data, at + 16))
        d = _round(d, _load64(data, at + 24))
        at += 32
    h = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
    for lane in (a, b, c, d):
        h = (h ^ _round(np.uint64(0), lane)) * _P1 + _P4
    return h


@_compiled
def _digest_of(data: Bytes, start: int, end: int) -> U64:
    size = end - start
    h = _stripes(data, start, end) if size >= 32 else _P5
    h += np.uint64(size)
    at = start + size // 32 * 32
    while at + 8 <= end:
        h = _rotate(h ^ _round(np.uint64(0), _load64(data, at)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= end:
        half = np.uint64(0)
        for i in range(4):
            half |= np.uint64(data[at + i]) << np.uint64(8 * i)
        h = _rotate(h ^ (half * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        h = _rotate(h ^ (np.uint64(data[at]) * _P5), 11) * _P1
        at += 1
    return _avalanche(h)


@_compiled
def _digest(data: Bytes, starts: Offsets, ends: Offsets, out: Digests) -> None:
    for i in range(len(starts)):
        out[i] = _digest_of(data, starts[i], ends[i])


@_compiled
def _mix64(values: Digests, key: U64, out: Digests) -> None:
    for i in range(len(values)):
        h = key + _P5 + np.uint64(8)
        h = _rotate(h ^ _round(np.uint64(0), values[i]), 27) * _P1 + _P4
        out[i] = _avalanche(h)


# --- words, windows and characters ------------------------------------------------------------------------------

_CONTINUES = np.uint8(0xC0)
_ONES = np.uint64(0x0101010101010101)
_TOPS = np.uint64(0x8080808080808080)


@_compiled
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


@_compiled
def _spaces(eight: U64) -> U64:
    """Top bits of the bytes that are ASCII whitespace: 9-13 and 1C-20. Exact: no sum carries into the next byte."""
    low = eight & ~_TOPS
    controls = (low + np.uint64(0x77) * _ONES) & ~(low + np.uint64(0x72) * _ONES)
    return (controls | ((low + np.uint64(0x64) * _ONES) & ~(low + np.uint64(0x5F) * _ONES))) & ~eight & _TOPS


@_compiled
def _may_hold_wide_space(eight: U64) -> bool:
    """Whether a byte is C2 or E1-E3: all whitespace outside ASCII begins so."""
    low = eight & ~_TOPS
    latin = _TOPS - (low ^ np.uint64(0x42) * _ONES)
    wide = (low + np.uint64(0x1F) * _ONES) & ~(low + np.uint64(0x1C) * _ONES)
    return bool((latin | wide) & eight & _TOPS)


@_compiled
def _word_starts(spaces: U64, inside: bool) -> U64:  # noqa: FBT001  # numba inlines it
    """Top bits of the bytes at which a word begins; `inside`: the byte before these eight is in a word."""
    before = np.uint64(0 if inside else 0x80)
    return ~spaces & (spaces << np.uint64(8) | before) & _TOPS


@_compiled
def _count_words_of(data: Bytes, at: int, end: int) -> int:
    words, inside = 0, False
    while at < end:
        eight = _load64(data, at) if at + 8 <= end else np.uint64(0)
        if at + 8 <= end and not _may_hold_wide_space(eight):
            spaces = _spaces(eight)
            words += _int(_count_ones(_word_starts(spaces, inside)))
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


@_compiled
def _count_words(data: Bytes, starts: Offsets, ends: Offsets, out: Offsets) -> None:
    for i in range(len(starts)):
        out[i] = _count_words_of(data, starts[i], ends[i])


@_compiled
def _boundary(data: Bytes, at: int, floor: int) -> int:
    """The last start of a character at or before `at`, at most 3 bytes back and above `floor` (else `at`)."""
    for back in range(4):
        if at - back <= floor:
            return at
        if (data[at - back] & _CONTINUES) != 0x80:
            return at - back
    return at


@_compiled
def _windows_of(data: Bytes, start: int, end: int, words: int, size: int, cuts: Offsets) -> int:
    """Write the ends of one text's windows into `cuts`; their number is returned, also where `cuts` is too short."""
    count, begin, at, inside, seen, word = 0, start, start, False, 0, start
    while at < end:
        if at + 8 <= end and at + 8 - begin <= size:  # eight bytes at once, as long as no window can end in them
            eight = _load64(data, at)
            spaces = _spaces(eight)
            begun = _word_starts(spaces, inside)
            fresh = _int(_count_ones(begun))
            if seen + fresh <= words and not _may_hold_wide_space(eight):
                if fresh:
                    word = at + 7 - _int(_leading_zeros(begun) >> np.uint64(3))
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


@_compiled
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


@_compiled
def _clip_of(data: Bytes, start: int, end: int, characters: int) -> int:
    if end - start <= characters:
        return end
    at, left = start, characters
    while at + 8 <= end and left >= 8:
        eight = _load64(data, at)
        left -= 8 - _int(_count_ones(eight & ~(eight << np.uint64(1)) & _TOPS))
        at += 8
    while at < end:
        if (data[at] & _CONTINUES) != 0x80:
            if left == 0:
                return at
            left -= 1
        at += 1
    return end


@_compiled
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


# --- fastText: https://github.com/facebookresearch/fastText/tree/main/src ----------------------------------------
#
# From here on everything is addresses and numbers: numba counts the references to an array that it takes from a tuple,
# with atomic instructions, and copies seven words an array at each call (lid.176: 46 MB/s so, 80 without). The caller
# keeps the arrays alive; `batch` has checked the offsets.

LANES = (
    16  # float32 values added at once; rows are padded to a multiple of it. One AVX-512, two AVX, four NEON registers
)


class Network(NamedTuple):
    """A fastText model as the kernels read it: addresses of its tables, and its numbers."""

    rows: int  # float32 (.., width): words, then n-grams (in the order of their bucket where some were pruned)
    present: int  # uint64: bit b % 64 of word b // 64 is set where bucket b has a row; 0 if all have
    ranks: int  # int32: rows before the first bucket of each such word
    blob: int  # the bytes of all dictionary entries: words, then labels
    offsets: int  # int64: entry i is blob[offsets[i]:offsets[i + 1]]
    slots: int  # uint64: open addressing by FNV hash; the hash in the upper half, entry + 1 in the lower, or 0
    slot_mask: int  # slots - 1, slots being a power of two
    output: int  # float32 (.., width)
    tree: int  # int32 (2 * labels - 1, 2): left and right child of each node, -1 for leaves; only for HIERARCHICAL
    sigmoid: int  # float32 (513,)
    width: int  # columns, padded to a multiple of LANES with zeros
    words: int  # dictionary entries that are words
    labels: int
    bucket: int  # at least 1
    reciprocal: int  # 2**32 // bucket
    minn: int
    maxn: int
    ngrams: int  # longest word n-gram, at least 1
    loss: int
    end_entry: int  # the dictionary entry of `</s>`, or -1


class Memory(NamedTuple):
    """What one thread remembers and scribbles on: addresses.

    A cell is a head (64 bytes: 48 of the word, zero-padded, then its length, hash and number of rows) and the sum of
    its rows, `width` float32. A word takes the place of the one in its cell, so the memory stays bounded, and a sum
    that is found is bit for bit the sum that would be computed.
    """

    cells: int
    shift: int  # 64 - log2(cells)
    word: int  # room for a word of LONGEST_REMEMBERED bytes in brackets
    found: int  # room for FOUND_ROOM addresses
    sum: int  # room for `width` float32: the sum of a word that is not remembered
    hidden: int  # likewise: the mean of a text's rows
    grams: int  # room for one uint64 a word n-gram that still grows


HIERARCHICAL, NEGATIVE_SAMPLING, SOFTMAX, ONE_VS_ALL = 1, 2, 3, 4  # args.h, enum loss_name
CELL_HEAD = 64
LONGEST_REMEMBERED = 48
FOUND_ROOM = 1024
_MEMORY_BYTES = 8 << 20
_WORD_ROOM = 128

_FNV_START = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_END_HASH = np.uint32(3617362777)  # of `</s>`
_END = np.uint64(int.from_bytes(b"</s>", "little"))
_LABEL_HEAD = np.uint64(int.from_bytes(b"__label_", "little"))
_PRINTABLE = np.uint64(0x2121212121212121)
_GRAM_FACTOR = np.uint64(116049371)  # Dictionary::addWordNgrams


def new_memory(net: Network) -> tuple[Memory, Bytes]:
    """An empty memory for a model, and the array of about 8 MiB it lies in. For one thread only."""
    width = net.width
    cell = CELL_HEAD + width * 4
    bits = max(4, (_MEMORY_BYTES // cell).bit_length() - 1)
    sizes = [cell << bits, _WORD_ROOM, FOUND_ROOM * 8, width * 4, width * 4, net.ngrams * 8]
    raw = aligned(np.zeros(sum(sizes), np.uint8))
    cells, word, found, total, hidden, grams = (raw.ctypes.data + sum(sizes[:i]) for i in range(6))
    return Memory(cells, 64 - bits, word, found, total, hidden, grams), raw


def aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that begins at a cache line: a row of 16 float32 then lies in one line, not two (about 20 % faster)."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    out = raw[-raw.ctypes.data % 64 :][: array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def _load(result: Any, code: Any) -> Any:
    """An instruction that loads a value of a type from any address."""

    @_instruction
    def load(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = builder.load(builder.inttoptr(args[0], code.as_pointer()))
            loaded.align = 1
            return loaded

        return result(types.int64), generate

    return load


_byte = _load(types.uint8, ir.IntType(8))
_word = _load(types.uint64, ir.IntType(64))
_index = _load(types.int32, ir.IntType(32))
_float = _load(types.float32, ir.FloatType())


@_instruction
def _put(typing: Any, address: Any, value: Any) -> Any:
    """Store eight bytes at any address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


_LANES = ir.VectorType(ir.FloatType(), LANES)


def _lanes(builder: Any, address: Any) -> Any:
    """The LANES float32 at an address."""
    loaded = builder.load(builder.inttoptr(address, _LANES.as_pointer()))
    loaded.align = 4
    return loaded


def _keep_lanes(builder: Any, value: Any, address: Any) -> None:
    stored = builder.store(value, builder.inttoptr(address, _LANES.as_pointer()))
    stored.align = 4


@_instruction
def _add_lanes(typing: Any, into: Any, source: Any) -> Any:
    """Add the LANES float32 at `source` to those at `into`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _keep_lanes(builder, builder.fadd(_lanes(builder, args[0]), _lanes(builder, args[1])), args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_instruction
def _scale_lanes(typing: Any, into: Any, factor: Any) -> Any:
    """Multiply the LANES float32 at `into` by a factor."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        factors = ir.Constant(_LANES, ir.Undefined)
        for i in range(LANES):
            factors = builder.insert_element(factors, args[1], ir.Constant(ir.IntType(32), i))
        _keep_lanes(builder, builder.fmul(_lanes(builder, args[0]), factors), args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


_alloca_once = cast(Callable[..., Any], cgutils.alloca_once)  # in the function's first block, so it becomes a register


@_instruction
def _sum_lanes(typing: Any, into: Any, found: Any, count: Any, shift: Any, fresh: Any) -> Any:
    """Put at `into` what is there (zeros if `fresh`) plus, in order, the lanes `shift` bytes into each row found.

    The sum stays in registers: through memory each row would wait nine cycles for the one before.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        into, found, count, shift, fresh = args
        total = _alloca_once(builder, _LANES)
        zeros = ir.Constant(_LANES, [0.0] * LANES)
        builder.store(builder.select(fresh, zeros, _lanes(builder, into)), total)
        pointers = builder.inttoptr(found, ir.IntType(64).as_pointer())
        with cgutils.for_range(builder, count) as loop:
            row = builder.add(builder.load(builder.gep(pointers, [loop.index])), shift)
            builder.store(builder.fadd(builder.load(total), _lanes(builder, row)), total)
        _keep_lanes(builder, builder.load(total), into)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.boolean), generate


@_instruction
def _dot_lanes(typing: Any, left: Any, right: Any) -> Any:
    """Dot product of LANES float32, added by halves: in this order on every processor."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, size = builder.fmul(_lanes(builder, args[0]), _lanes(builder, args[1])), LANES
        while size > 1:
            size //= 2
            halves = [ir.Constant(ir.VectorType(ir.IntType(32), size), list(range(a, a + size))) for a in (0, size)]
            low, high = (builder.shuffle_vector(total, total, half) for half in halves)
            total = builder.fadd(low, high)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float32(types.int64, types.int64), generate


@_compiled
def _add_row(into: int, row: int, width: int) -> None:
    for lane in range(0, width * 4, LANES * 4):
        _add_lanes(into + lane, row + lane)


@_compiled
def _sum_rows(into: int, found: int, count: int, width: int, fresh: bool) -> None:  # noqa: FBT001  # numba inlines it
    for lane in range(0, width * 4, LANES * 4):
        _sum_lanes(into + lane, found, count, lane, fresh)


@_compiled
def _dot(left: int, right: int, width: int) -> F32:
    total = np.float32(0)
    for lane in range(0, width * 4, LANES * 4):
        total += _dot_lanes(left + lane, right + lane)
    return total


@_compiled
def _fnv(h: U32, byte: U32) -> U32:
    """One step of Dictionary::hash, which sign-extends the byte. numba computes in 64 bits: cut each result."""
    return np.uint32((h ^ np.uint32(np.int8(byte))) * _FNV_PRIME)


@_compiled
def _fnv_of(at: int, size: int) -> U32:
    h = _FNV_START
    for i in range(at, at + size):
        h = _fnv(h, _byte(i))
    return h


@_compiled
def _same(left: int, right: int, size: int) -> bool:
    at = 0
    while at < size and _byte(left + at) == _byte(right + at):
        at += 1
    return at == size


@_compiled
def _find_slot(blob: int, offsets: int, slots: int, mask: int, at: int, size: int, h: U32) -> int:
    """Address of the slot that holds the entry with these bytes, or of the empty one where it belongs."""
    slot = _int(h) & mask
    while True:
        held = _word(slots + 8 * slot)
        if held == 0:
            return slots + 8 * slot
        if held >> np.uint64(32) == np.uint64(h):
            entry = offsets + 8 * (_int(held & np.uint64(0xFFFFFFFF)) - 1)
            known = _int(_word(entry))
            if _int(_word(entry + 8)) - known == size and _same(blob + known, at, size):
                return slots + 8 * slot
        slot = (slot + 1) & mask


@_compiled
def _fill_slots(blob: Bytes, offsets: Offsets, slots: Digests) -> None:
    base, first = blob.ctypes.data, slots.ctypes.data
    for i in range(len(offsets) - 1):
        at, size = base + offsets[i], offsets[i + 1] - offsets[i]
        h = _fnv_of(at, size)
        slot = _find_slot(base, offsets.ctypes.data, first, len(slots) - 1, at, size, h)
        slots[(slot - first) // 8] = np.uint64(h) << np.uint64(32) | np.uint64(i + 1)


def slots_of(blob: Bytes, offsets: Offsets) -> Digests:
    """Open addressing of the dictionary entries; of equal ones the last counts, as in Dictionary::load.

    At most a quarter is in use: nearly every word asked for is absent, and is so after one look.
    """
    slots = np.zeros(4 << len(offsets).bit_length(), np.uint64)
    _fill_slots(blob, offsets, slots)
    return slots


@_compiled
def _list_bucket(net: Network, bucket: int, found: int, count: int) -> int:
    """Note the row of a bucket as number `count` of `found`; the new count, the same where the bucket was pruned.

    Written without a branch: whether a bucket has a row is a coin toss to the processor (Dictionary::pushHash).
    """
    if net.present == 0:
        _put(found + 8 * count, np.uint64(net.rows + (net.words + bucket) * net.width * 4))
        return count + 1
    bits, place = _word(net.present + (bucket >> 6) * 8), np.uint64(bucket & 63)
    row = _index(net.ranks + (bucket >> 6) * 4) + _int(_count_ones(bits & ((np.uint64(1) << place) - np.uint64(1))))
    _put(found + 8 * count, np.uint64(net.rows + row * net.width * 4))
    return count + _int(bits >> place & np.uint64(1))


@_compiled
def _bucket_of(net: Network, h: U32) -> int:
    """`h % net.bucket` by a multiplication: the estimate of the quotient is exact or one too small."""
    wide, bucket = np.uint64(h), np.uint64(net.bucket)
    rest = wide - (wide * np.uint64(net.reciprocal) >> np.uint64(32)) * bucket
    return _int(rest - bucket if rest >= bucket else rest)


@_compiled
def _sum_subwords(net: Network, memory: Memory, word: int, size: int, into: int, count: int) -> int:
    """Put at `into` the sum of the `count` rows found and of the word's n-grams (Dictionary::computeSubwords).

    `word` is the address of `size` bytes, brackets included, and a zero after them. The number of rows is returned.
    """
    total, fresh = 0, True
    for i in range(size if net.maxn > 0 else 0):
        if (_byte(word + i) & _CONTINUES) == 0x80:
            continue
        h, j, n = _FNV_START, i, 1
        while j < size and n <= net.maxn:
            h = _fnv(h, _byte(word + j))
            j += 1
            while (_byte(word + j) & _CONTINUES) == 0x80:
                h = _fnv(h, _byte(word + j))
                j += 1
            if n >= net.minn and not (n == 1 and (i == 0 or j == size)):
                if count == FOUND_ROOM:
                    _sum_rows(into, memory.found, count, net.width, fresh)
                    total, count, fresh = total + count, 0, False
                count = _list_bucket(net, _bucket_of(net, h), memory.found, count)
            n += 1
    _sum_rows(into, memory.found, count, net.width, fresh)
    return total + count


@_compiled
def _sum_word(net: Network, memory: Memory, word: int, size: int, into: int) -> int:
    """Put at `into` the sum of a word's rows; their number is returned, or -1 for the token of a label.

    `word` is as in `_sum_subwords` (Dictionary::getLine, addSubwords).
    """
    plain, length = word + 1, size - 2
    h = _fnv_of(plain, length)
    slot = _find_slot(net.blob, net.offsets, net.slots, net.slot_mask, plain, length, h)
    entry = _int(_index(slot)) - 1
    label = entry < 0 and length >= 9 and _word(plain) == _LABEL_HEAD and _byte(plain + 8) == 0x5F
    if label or entry >= net.words:
        return -1
    if entry >= 0:
        _put(memory.found, np.uint64(net.rows + entry * net.width * 4))
    return _sum_subwords(net, memory, word, size, into, 1 if entry >= 0 else 0)


@_compiled
def _sum_long_word(net: Network, memory: Memory, at: int, size: int) -> int:
    word = np.empty(size + 3, np.uint8)
    word[0], word[size + 1], word[size + 2] = 0x3C, 0x3E, 0
    for i in range(size):
        word[i + 1] = _byte(at + i)
    return _sum_word(net, memory, word.ctypes.data, size + 2, memory.sum)


@_compiled
def _separates(byte: U32) -> bool:
    """Dictionary::readWord splits here."""
    return bool(byte <= 0x20 and (byte == 0x20 or byte == 0 or 9 <= byte <= 13))


@_compiled
def _word_end(at: int, end: int, limit: int) -> int:
    """The first separator from `at` on, or `end`. Eight bytes at a time as long as these lie before `limit`."""
    while at + 8 <= limit and at < end:
        eight = _word(at)
        low = (eight - _PRINTABLE) & ~eight & _TOPS  # marks bytes below 0x21; the lowest mark is exact
        if low == 0:
            at += 8
            continue
        at += _int(_trailing_zeros(low) >> np.uint64(3))
        if at >= end or _separates(_byte(at)):
            return min(at, end)
        at += 1
    while at < end and not _separates(_byte(at)):
        at += 1
    return min(at, end)


@_compiled
def _key(at: int, end: int, limit: int) -> U64:
    """Up to eight bytes of a word, zero-padded: words have no NUL, so the padding is unambiguous."""
    if at + 8 <= limit:
        return _word(at) & (~np.uint64(0) >> np.uint64(8 * max(0, 8 - (end - at))))
    key = np.uint64(0)
    for i in range(min(8, end - at)):
        key |= np.uint64(_byte(at + i)) << np.uint64(8 * i)
    return key


@_compiled
def _cell_of(net: Network, memory: Memory, at: int, end: int, limit: int) -> int:
    h = np.uint64(0)
    for i in range(at, end, 8):
        h = _rotate(h ^ _key(i, end, limit), 29) * _P1
    h ^= h >> np.uint64(32)
    return memory.cells + _int(h * _P2 >> np.uint64(memory.shift)) * (CELL_HEAD + net.width * 4)


@_compiled
def _knows(cell: int, at: int, end: int, limit: int) -> bool:
    if _int(_index(cell + 48)) != end - at:
        return False
    i = 0
    while at + i < end and _word(cell + i) == _key(at + i, end, limit):
        i += 8
    return at + i >= end


@_compiled
def _learn(net: Network, memory: Memory, cell: int, at: int, end: int, limit: int) -> None:
    """Write the word into the cell: its bytes, length, hash, number of rows and their sum."""
    size, word = end - at, memory.word
    for i in range(0, LONGEST_REMEMBERED, 8):
        key = _key(at + i, end, limit) if i < size else np.uint64(0)
        _put(cell + i, key)
        _put(word + 1 + i, key)
    _put(word, np.uint64(0x3C) | _word(word + 1) << np.uint64(8))
    _put(word + 1 + size, np.uint64(0x3E))
    h = _fnv_of(word + 1, size)
    _put(cell + 48, np.uint64(size) | np.uint64(h) << np.uint64(32))
    _put(cell + 56, np.uint64(_int(_sum_word(net, memory, word, size + 2, cell + CELL_HEAD))))


@_compiled
def _add_grams(net: Network, memory: Memory, seen: int, h: U32) -> int:
    """Add the rows of the word n-grams that end with the word of hash `h` (Dictionary::addWordNgrams).

    Room k of `memory.grams` is the running hash of the n-gram that began `k` words, modulo their number, into the text.
    """
    rooms, count = net.ngrams - 1, 0
    signed = np.uint64(_int(np.int32(h)))
    for k in range(max(0, seen - rooms), seen):
        room = memory.grams + 8 * (k % rooms)
        gram = _word(room) * _GRAM_FACTOR + signed
        _put(room, gram)
        count = _list_bucket(net, _int(gram % np.uint64(net.bucket)), memory.found, count)
    _put(memory.grams + 8 * (seen % rooms), signed)
    for i in range(count):
        _add_row(memory.hidden, _int(_word(memory.found + 8 * i)), net.width)
    return count


@_compiled
def _hide(net: Network, memory: Memory, at: int, end: int, limit: int) -> int:
    """Sum the rows of a text in `memory.hidden` (Dictionary::getLine, Model::computeHidden); their number."""
    _sum_rows(memory.hidden, memory.found, 0, net.width, True)
    count, seen = 0, 0
    while at < end:
        stop = _word_end(at, end, limit)
        size = stop - at
        if size == 0:
            at += 1
            continue
        if size == 4 and _key(at, stop, limit) == _END:
            break
        if size <= LONGEST_REMEMBERED:
            cell = _cell_of(net, memory, at, stop, limit)
            if not _knows(cell, at, stop, limit):
                _learn(net, memory, cell, at, stop, limit)
            source, rows, h = cell + CELL_HEAD, _int(_word(cell + 56)), np.uint32(_index(cell + 52))
        else:
            source, rows, h = memory.sum, _sum_long_word(net, memory, at, size), _fnv_of(at, size)
        if rows > 0:
            _add_row(memory.hidden, source, net.width)
            count += rows
        if rows >= 0 and net.ngrams > 1:
            count += _add_grams(net, memory, seen, h)
            seen += 1
        at = stop
    return count + _end_line(net, memory, seen)


@_compiled
def _end_line(net: Network, memory: Memory, seen: int) -> int:
    """Add the row of `</s>`, which ends every text and has no n-grams of characters; the number of rows."""
    count = 0
    if net.end_entry >= net.words:
        return 0
    if net.end_entry >= 0:
        _add_row(memory.hidden, net.rows + net.end_entry * net.width * 4, net.width)
        count = 1
    if net.ngrams > 1:
        count += _add_grams(net, memory, seen, _END_HASH)
    return count


@_compiled
def _hidden_of(net: Network, memory: Memory, at: int, end: int, limit: int) -> bool:
    """Put the mean of the text's rows into `memory.hidden`; False where it has none."""
    count = _hide(net, memory, at, end, limit)
    if count == 0:
        return False
    for lane in range(0, net.width * 4, LANES * 4):
        _scale_lanes(memory.hidden + lane, np.float32(1.0 / count))
    return True


@_compiled
def _log(x: F32) -> F32:
    """std_log of loss.cc: never below log(1e-5), and above 0 near 1."""
    return np.float32(np.log(np.float64(x) + 1e-5))


@_compiled
def _sigmoid(net: Network, x: F32) -> F32:
    """Loss::sigmoid: a table of 512 steps over [-8, 8)."""
    if x < -8:
        return np.float32(0)
    if x > 8:
        return np.float32(1)
    return _float(net.sigmoid + 4 * _int((x + np.float32(8)) * np.float32(512) / np.float32(8) / np.float32(2)))


@_compiled
def _right(net: Network, memory: Memory, node: int) -> F32:
    """Probability of the right child of an inner node."""
    x = _dot(net.output + (node - net.labels) * net.width * 4, memory.hidden, net.width)
    return np.float32(1.0 / np.float64(np.float32(1) + np.exp(-x)))


@_compiled
def _child(net: Network, node: int, right: int) -> int:
    """Left or right child, -1 for a leaf."""
    return _int(_index(net.tree + 8 * node + 4 * right))


@_compiled
def _best_leaf(net: Network, memory: Memory, nodes: npt.NDArray[np.int64], scores: Floats) -> tuple[int, F32]:
    """HierarchicalSoftmaxLoss::dfs with k = 1: left before right, the later of equals wins, -1 below a score of 1e-5.

    lid.176 has 175 inner nodes; about 9 are visited. Descending the likelier side first, for an early bound, saves 3
    of them and costs 5.
    """
    top, best, found = 1, _log(np.float32(0)), -1
    nodes[0], scores[0] = 2 * net.labels - 2, 0
    while top > 0:
        top -= 1
        node, score = nodes[top], scores[top]
        if score < best:
            continue
        if _child(net, node, 0) < 0:
            best, found = score, node
            continue
        f = _right(net, memory, node)
        nodes[top], scores[top] = _child(net, node, 1), score + _log(f)
        nodes[top + 1], scores[top + 1] = _child(net, node, 0), score + _log(np.float32(1.0 - np.float64(f)))
        top += 2
    return found, best


@_compiled
def _leaves(net: Network, memory: Memory, scores: Floats, out: Floats) -> None:
    """Probability of every label of a tree. Inner nodes come after their children, so one pass from the top does."""
    top = 2 * net.labels - 2
    scores[top] = 0
    for node in range(top, net.labels - 1, -1):
        f = _right(net, memory, node)
        scores[_child(net, node, 0)] = scores[node] + _log(np.float32(1.0 - np.float64(f)))
        scores[_child(net, node, 1)] = scores[node] + _log(f)
    for label in range(net.labels):
        out[label] = min(np.float32(1), np.exp(scores[label]))


@_compiled
def _outputs(net: Network, memory: Memory, out: Floats) -> None:
    """Probability of every label without a tree (Loss::computeOutput)."""
    highest, total = np.float32(-np.inf), np.float32(0)
    for label in range(net.labels):
        out[label] = _dot(net.output + label * net.width * 4, memory.hidden, net.width)
        highest = max(highest, out[label])
    for label in range(net.labels):
        out[label] = np.exp(out[label] - highest) if net.loss == SOFTMAX else _sigmoid(net, out[label])
        total += out[label]
    for label in range(net.labels if net.loss == SOFTMAX else 0):
        out[label] /= total


@_compiled
def _best_output(out: Floats) -> int:
    """Loss::findKBest with k = 1: it compares logarithms, and the later of equals wins."""
    best, score = 0, _log(out[0])
    for label in range(1, len(out)):
        if _log(out[label]) >= score:
            best, score = label, _log(out[label])
    return best


@_compiled
def _predict_all(net: Network, memory: Memory, data: Bytes, starts: Offsets, ends: Offsets, out: Floats) -> None:
    scores, base = np.empty(2 * net.labels, np.float32), data.ctypes.data
    for i in range(len(starts)):
        out[i] = np.float32(0)
        if not _hidden_of(net, memory, base + starts[i], base + ends[i], base + len(data)):
            continue
        if net.loss == HIERARCHICAL:
            _leaves(net, memory, scores, out[i])
        else:
            _outputs(net, memory, out[i])


@_compiled
def _predict_best(
    net: Network,
    memory: Memory,
    data: Bytes,
    starts: Offsets,
    ends: Offsets,
    labels: npt.NDArray[np.int32],
    out: Floats,
) -> None:
    nodes, scores, base = np.empty(2 * net.labels, np.int64), np.empty(2 * net.labels, np.float32), data.ctypes.data
    for i in range(len(starts)):
        labels[i], out[i] = -1, 0
        if not _hidden_of(net, memory, base + starts[i], base + ends[i], base + len(data)):
            continue
        if net.loss == HIERARCHICAL:
            best, score = _best_leaf(net, memory, nodes, scores)
            labels[i], out[i] = best, min(np.float32(1), np.exp(score)) if best >= 0 else np.float32(0)
        else:
            every = scores[: net.labels]
            _outputs(net, memory, every)
            labels[i] = _best_output(every)
            out[i] = every[labels[i]]


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
    offsets, rows = np.array([0, 4, 5], np.int64), aligned(np.zeros((4, LANES), np.float32))
    blob, sigmoid = np.frombuffer(b"warmx", np.uint8), np.zeros(513, np.float32)
    slots, at = slots_of(blob, offsets), rows.ctypes.data
    net = Network(
        at, 0, 0, blob.ctypes.data, offsets.ctypes.data, slots.ctypes.data, len(slots) - 1, at, 0, sigmoid.ctypes.data,
        width=LANES, words=1, labels=1, bucket=1, reciprocal=1 << 32, minn=0, maxn=0, ngrams=1, loss=SOFTMAX,
        end_entry=-1,
    )  # fmt: skip
    memory, kept = new_memory(net)
    predict_all(net, memory, *batch(data, starts, ends))
    predict_best(net, memory, *batch(data, starts, ends))
    del kept, rows  # `net` and `memory` are addresses within these


def predict_all(net: Network, memory: Memory, data: Bytes, starts: Offsets, ends: Offsets) -> Floats:
    """Probability of each label for each text of a `batch`, (n, labels); zeros where there is nothing to score."""
    out = np.empty((len(starts), net.labels), np.float32)
    _predict_all(net, memory, data, starts, ends, out)
    return out


def predict_best(
    net: Network, memory: Memory, data: Bytes, starts: Offsets, ends: Offsets
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Best label of each text of a `batch` and its probability, (n,); -1 and 0 where there is nothing to score."""
    labels, out = np.empty(len(starts), np.int32), np.empty(len(starts), np.float32)
    _predict_best(net, memory, data, starts, ends, labels, out)
    return labels, out
