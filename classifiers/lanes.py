"""Loads, stores and sums of float32 vectors at any address, as instructions for the kernels of fastText.

Everything is addresses and numbers: numba counts the references to an array that it takes from a tuple, with atomic
instructions, and copies seven words an array at each call (lid.176: 46 MB/s so, 80 without). The caller keeps the
arrays alive and answers for the bounds.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]  # llvmlite ships no stubs
from numba import types
from numba.core import cgutils

from classifiers.compiled import F32, compiled, instruction

LANES = 16
"""float32 values added at once; rows are padded to a multiple of it. One AVX-512, two AVX, four NEON registers."""


def aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that begins at a cache line: a row of 16 float32 then lies in one line, not two (about 20 % faster)."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    out = raw[-raw.ctypes.data % 64 :][: array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def _load(result: Any, code: Any) -> Any:
    """An instruction that loads a value of a type from any address."""

    @instruction
    def load(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = builder.load(builder.inttoptr(args[0], code.as_pointer()))
            loaded.align = 1
            return loaded

        return result(types.int64), generate

    return load


byte_at = _load(types.uint8, ir.IntType(8))
word_at = _load(types.uint64, ir.IntType(64))
int_at = _load(types.int32, ir.IntType(32))
float_at = _load(types.float32, ir.FloatType())


@instruction
def put_word(typing: Any, address: Any, value: Any) -> Any:
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


@instruction
def _add_lanes(typing: Any, into: Any, source: Any) -> Any:
    """Add the LANES float32 at `source` to those at `into`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _keep_lanes(builder, builder.fadd(_lanes(builder, args[0]), _lanes(builder, args[1])), args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@instruction
def scale_lanes(typing: Any, into: Any, factor: Any) -> Any:
    """Multiply the LANES float32 at `into` by a factor."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        factors = ir.Constant(_LANES, ir.Undefined)
        for i in range(LANES):
            factors = builder.insert_element(factors, args[1], ir.Constant(ir.IntType(32), i))
        _keep_lanes(builder, builder.fmul(_lanes(builder, args[0]), factors), args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


_alloca_once = cast(Callable[..., Any], cgutils.alloca_once)  # in the function's first block, so it becomes a register


@instruction
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


@instruction
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


@compiled
def add_row(into: int, row: int, width: int) -> None:
    """Add a row to what is at `into`."""
    for lane in range(0, width * 4, LANES * 4):
        _add_lanes(into + lane, row + lane)


@compiled
def sum_rows(into: int, found: int, count: int, width: int, fresh: bool) -> None:  # noqa: FBT001  # numba inlines it
    """Put at `into` the sum of the rows found, in their order, after what is there unless `fresh`."""
    for lane in range(0, width * 4, LANES * 4):
        _sum_lanes(into + lane, found, count, lane, fresh)


@compiled
def dot(left: int, right: int, width: int) -> F32:
    """Dot product of two rows."""
    total = np.float32(0)
    for lane in range(0, width * 4, LANES * 4):
        total += _dot_lanes(left + lane, right + lane)
    return total
