"""fastText's way from a text to its hidden vector: words, their n-grams, the rows of both, and their mean.

After https://github.com/facebookresearch/fastText/tree/main/src; names of its functions stand where they are followed.
A thread remembers the sums of words it has seen. Tables are addresses (see `classifiers.lanes`): the caller keeps the
arrays alive, and `kernel.batch` has checked the offsets.
"""

from typing import NamedTuple

import numpy as np

from classifiers.compiled import (
    CONTINUES,
    P1,
    P2,
    TOPS,
    U32,
    U64,
    Bytes,
    Digests,
    Offsets,
    compiled,
    count_ones,
    integer,
    rotate,
    trailing_zeros,
)
from classifiers.lanes import LANES, add_row, aligned, byte_at, int_at, put_word, scale_lanes, sum_rows, word_at


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
_MEMORY_BYTES = 32 << 20  # lid.176: 84 MB/s of text in 20 languages, with 8 MiB 69, with 64 MiB 85
_WORD_ROOM = 128

_FNV_START = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_END_HASH = np.uint32(3617362777)  # of `</s>`
_END = np.uint64(int.from_bytes(b"</s>", "little"))
_LABEL_HEAD = np.uint64(int.from_bytes(b"__label_", "little"))
_PRINTABLE = np.uint64(0x2121212121212121)
_GRAM_FACTOR = np.uint64(116049371)  # Dictionary::addWordNgrams


def new_memory(net: Network) -> tuple[Memory, Bytes]:
    """An empty memory for a model, and the array of about 32 MiB it lies in. For one thread only."""
    width = net.width
    cell = CELL_HEAD + width * 4
    bits = max(4, (_MEMORY_BYTES // cell).bit_length() - 1)
    sizes = [cell << bits, _WORD_ROOM, FOUND_ROOM * 8, width * 4, width * 4, net.ngrams * 8]
    raw = aligned(np.zeros(sum(sizes), np.uint8))
    cells, word, found, total, hidden, grams = (raw.ctypes.data + sum(sizes[:i]) for i in range(6))
    return Memory(cells, 64 - bits, word, found, total, hidden, grams), raw


@compiled
def _fnv(h: U32, byte: U32) -> U32:
    """One step of Dictionary::hash, which sign-extends the byte. numba computes in 64 bits: cut each result."""
    return np.uint32((h ^ np.uint32(np.int8(byte))) * _FNV_PRIME)


@compiled
def _fnv_of(at: int, size: int) -> U32:
    h = _FNV_START
    for i in range(at, at + size):
        h = _fnv(h, byte_at(i))
    return h


@compiled
def _same(left: int, right: int, size: int) -> bool:
    at = 0
    while at < size and byte_at(left + at) == byte_at(right + at):
        at += 1
    return at == size


@compiled
def _find_slot(blob: int, offsets: int, slots: int, mask: int, at: int, size: int, h: U32) -> int:
    """Address of the slot that holds the entry with these bytes, or of the empty one where it belongs."""
    slot = integer(h) & mask
    while True:
        held = word_at(slots + 8 * slot)
        if held == 0:
            return slots + 8 * slot
        if held >> np.uint64(32) == np.uint64(h):
            entry = offsets + 8 * (integer(held & np.uint64(0xFFFFFFFF)) - 1)
            known = integer(word_at(entry))
            if integer(word_at(entry + 8)) - known == size and _same(blob + known, at, size):
                return slots + 8 * slot
        slot = (slot + 1) & mask


@compiled
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


@compiled
def _list_bucket(net: Network, bucket: int, found: int, count: int) -> int:
    """Note the row of a bucket as number `count` of `found`; the new count, the same where the bucket was pruned.

    Written without a branch: whether a bucket has a row is a coin toss to the processor (Dictionary::pushHash).
    """
    if net.present == 0:
        put_word(found + 8 * count, np.uint64(net.rows + (net.words + bucket) * net.width * 4))
        return count + 1
    bits, place = word_at(net.present + (bucket >> 6) * 8), np.uint64(bucket & 63)
    row = int_at(net.ranks + (bucket >> 6) * 4) + integer(count_ones(bits & ((np.uint64(1) << place) - np.uint64(1))))
    put_word(found + 8 * count, np.uint64(net.rows + row * net.width * 4))
    return count + integer(bits >> place & np.uint64(1))


@compiled
def _bucket_of(net: Network, h: U32) -> int:
    """`h % net.bucket` by a multiplication: the estimate of the quotient is exact or one too small."""
    wide, bucket = np.uint64(h), np.uint64(net.bucket)
    rest = wide - (wide * np.uint64(net.reciprocal) >> np.uint64(32)) * bucket
    return integer(rest - bucket if rest >= bucket else rest)


@compiled
def _sum_subwords(net: Network, memory: Memory, word: int, size: int, into: int, count: int) -> int:
    """Put at `into` the sum of the `count` rows found and of the word's n-grams (Dictionary::computeSubwords).

    `word` is the address of `size` bytes, brackets included, and a zero after them. The number of rows is returned.
    """
    total, fresh = 0, True
    for i in range(size if net.maxn > 0 else 0):
        if (byte_at(word + i) & CONTINUES) == 0x80:
            continue
        h, j, n = _FNV_START, i, 1
        while j < size and n <= net.maxn:
            h = _fnv(h, byte_at(word + j))
            j += 1
            while (byte_at(word + j) & CONTINUES) == 0x80:
                h = _fnv(h, byte_at(word + j))
                j += 1
            if n >= net.minn and not (n == 1 and (i == 0 or j == size)):
                if count == FOUND_ROOM:
                    sum_rows(into, memory.found, count, net.width, fresh)
                    total, count, fresh = total + count, 0, False
                count = _list_bucket(net, _bucket_of(net, h), memory.found, count)
            n += 1
    sum_rows(into, memory.found, count, net.width, fresh)
    return total + count


@compiled
def _sum_word(net: Network, memory: Memory, word: int, size: int, into: int) -> int:
    """Put at `into` the sum of a word's rows; their number is returned, or -1 for the token of a label.

    `word` is as in `_sum_subwords` (Dictionary::getLine, addSubwords).
    """
    plain, length = word + 1, size - 2
    h = _fnv_of(plain, length)
    slot = _find_slot(net.blob, net.offsets, net.slots, net.slot_mask, plain, length, h)
    entry = integer(int_at(slot)) - 1
    label = entry < 0 and length >= 9 and word_at(plain) == _LABEL_HEAD and byte_at(plain + 8) == 0x5F
    if label or entry >= net.words:
        return -1
    if entry >= 0:
        put_word(memory.found, np.uint64(net.rows + entry * net.width * 4))
    return _sum_subwords(net, memory, word, size, into, 1 if entry >= 0 else 0)


@compiled
def _sum_long_word(net: Network, memory: Memory, at: int, size: int) -> int:
    word = np.empty(size + 3, np.uint8)
    word[0], word[size + 1], word[size + 2] = 0x3C, 0x3E, 0
    for i in range(size):
        word[i + 1] = byte_at(at + i)
    return _sum_word(net, memory, word.ctypes.data, size + 2, memory.sum)


@compiled
def _separates(byte: U32) -> bool:
    """Dictionary::readWord splits here."""
    return bool(byte <= 0x20 and (byte == 0x20 or byte == 0 or 9 <= byte <= 13))


@compiled
def _word_end(at: int, end: int, limit: int) -> int:
    """The first separator from `at` on, or `end`. Eight bytes at a time as long as these lie before `limit`."""
    while at + 8 <= limit and at < end:
        eight = word_at(at)
        low = (eight - _PRINTABLE) & ~eight & TOPS  # marks bytes below 0x21; the lowest mark is exact
        if low == 0:
            at += 8
            continue
        at += integer(trailing_zeros(low) >> np.uint64(3))
        if at >= end or _separates(byte_at(at)):
            return min(at, end)
        at += 1
    while at < end and not _separates(byte_at(at)):
        at += 1
    return min(at, end)


@compiled
def _key(at: int, end: int, limit: int) -> U64:
    """Up to eight bytes of a word, zero-padded: words have no NUL, so the padding is unambiguous."""
    if at + 8 <= limit:
        return word_at(at) & (~np.uint64(0) >> np.uint64(8 * max(0, 8 - (end - at))))
    key = np.uint64(0)
    for i in range(min(8, end - at)):
        key |= np.uint64(byte_at(at + i)) << np.uint64(8 * i)
    return key


@compiled
def _cell_of(net: Network, memory: Memory, at: int, end: int, limit: int) -> int:
    h = np.uint64(0)
    for i in range(at, end, 8):
        h = rotate(h ^ _key(i, end, limit), 29) * P1
    h ^= h >> np.uint64(32)
    return memory.cells + integer(h * P2 >> np.uint64(memory.shift)) * (CELL_HEAD + net.width * 4)


@compiled
def _knows(cell: int, at: int, end: int, limit: int) -> bool:
    if integer(int_at(cell + 48)) != end - at:
        return False
    i = 0
    while at + i < end and word_at(cell + i) == _key(at + i, end, limit):
        i += 8
    return at + i >= end


@compiled
def _learn(net: Network, memory: Memory, cell: int, at: int, end: int, limit: int) -> None:
    """Write the word into the cell: its bytes, length, hash, number of rows and their sum."""
    size, word = end - at, memory.word
    for i in range(0, LONGEST_REMEMBERED, 8):
        key = _key(at + i, end, limit) if i < size else np.uint64(0)
        put_word(cell + i, key)
        put_word(word + 1 + i, key)
    put_word(word, np.uint64(0x3C) | word_at(word + 1) << np.uint64(8))
    put_word(word + 1 + size, np.uint64(0x3E))
    h = _fnv_of(word + 1, size)
    put_word(cell + 48, np.uint64(size) | np.uint64(h) << np.uint64(32))
    put_word(cell + 56, np.uint64(integer(_sum_word(net, memory, word, size + 2, cell + CELL_HEAD))))


@compiled
def _add_grams(net: Network, memory: Memory, seen: int, h: U32) -> int:
    """Add the rows of the word n-grams that end with the word of hash `h` (Dictionary::addWordNgrams).

    Room k of `memory.grams` is the running hash of the n-gram that began `k` words, modulo their number, into the text.
    """
    rooms, count = net.ngrams - 1, 0
    signed = np.uint64(integer(np.int32(h)))
    for k in range(max(0, seen - rooms), seen):
        room = memory.grams + 8 * (k % rooms)
        gram = word_at(room) * _GRAM_FACTOR + signed
        put_word(room, gram)
        count = _list_bucket(net, integer(gram % np.uint64(net.bucket)), memory.found, count)
    put_word(memory.grams + 8 * (seen % rooms), signed)
    for i in range(count):
        add_row(memory.hidden, integer(word_at(memory.found + 8 * i)), net.width)
    return count


@compiled
def _hide(net: Network, memory: Memory, at: int, end: int, limit: int) -> int:
    """Sum the rows of a text in `memory.hidden` (Dictionary::getLine, Model::computeHidden); their number."""
    sum_rows(memory.hidden, memory.found, 0, net.width, True)
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
            source, rows, h = cell + CELL_HEAD, integer(word_at(cell + 56)), np.uint32(int_at(cell + 52))
        else:
            source, rows, h = memory.sum, _sum_long_word(net, memory, at, size), _fnv_of(at, size)
        if rows > 0:
            add_row(memory.hidden, source, net.width)
            count += rows
        if rows >= 0 and net.ngrams > 1:
            count += _add_grams(net, memory, seen, h)
            seen += 1
        at = stop
    return count + _end_line(net, memory, seen)


@compiled
def _end_line(net: Network, memory: Memory, seen: int) -> int:
    """Add the row of `</s>`, which ends every text and has no n-grams of characters; the number of rows."""
    count = 0
    if net.end_entry >= net.words:
        return 0
    if net.end_entry >= 0:
        add_row(memory.hidden, net.rows + net.end_entry * net.width * 4, net.width)
        count = 1
    if net.ngrams > 1:
        count += _add_grams(net, memory, seen, _END_HASH)
    return count


@compiled
def hidden_of(net: Network, memory: Memory, at: int, end: int, limit: int) -> bool:
    """Put the mean of the text's rows into `memory.hidden`; False where it has none."""
    count = _hide(net, memory, at, end, limit)
    if count == 0:
        return False
    for lane in range(0, net.width * 4, LANES * 4):
        scale_lanes(memory.hidden + lane, np.float32(1.0 / count))
    return True
