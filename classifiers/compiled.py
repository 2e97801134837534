"""How the kernels are compiled, and the instructions and constants that they share.

numba compiles a kernel on its first use (about 10 s for all) and keeps the machine code in `__pycache__`. Machine code
holds whatever its function calls in other files; numba looks at the age of the function's own file only, so here every
kernel is compiled anew when any file of kernels changes.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]  # llvmlite ships no stubs
from numba import types
from numba.extending import intrinsic

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

_Function = TypeVar("_Function", bound=Callable[..., Any])

if sys.byteorder != "little":  # pragma: no cover  # the words of `load64` and the files of fastText are little-endian
    raise ImportError("classifiers.compiled needs a little-endian processor (x86-64 or arm64)")


# What compiled code computes with. mypy takes NumPy's scalars for objects that change their type at each operation; in
# numba they are machine words, so the checks stop at the edge of a kernel.
U64: TypeAlias = Any
U32: TypeAlias = Any
F32: TypeAlias = Any
integer = cast(Callable[[Any], int], np.int64)

_FILES: Final = ("compiled", "lanes", "network", "outputs", "kernel")
_STAMP: Final = tuple(
    (stat.st_mtime_ns, stat.st_size) for name in _FILES for stat in [Path(__file__).with_name(f"{name}.py").stat()]
)


def compiled(function: _Function) -> _Function:
    """`numba.njit`, typed. No fastmath: sums keep their order, so results do not depend on the machine's vectors."""
    made = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    kept = getattr(getattr(made, "_cache", None), "_cache_file", None)
    if kept is not None:
        kept._source_stamp = _STAMP  # noqa: SLF001  # numba has no public way; test_kernel says when this one ends
    return cast(_Function, made)


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.extending.intrinsic`, typed: the function writes machine code, and is called without `typing`."""
    return cast(Callable[..., Any], intrinsic(function))


# --- the machine's instructions that numba does not offer -------------------------------------------------------


@instruction
def load64(typing: Any, data: Any, index: Any) -> Any:
    """Eight bytes from any address as uint64, one instruction; the caller answers for the bounds."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        wide = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        loaded = builder.load(wide)
        loaded.align = 1
        return loaded

    return types.uint64(data, types.intp), generate


@instruction
def trailing_zeros(typing: Any, value: Any) -> Any:
    """Number of zero bits below the lowest set bit of a uint64 (64 for zero)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@instruction
def leading_zeros(typing: Any, value: Any) -> Any:
    """Number of zero bits above the highest set bit of a uint64 (64 for zero)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@instruction
def count_ones(typing: Any, value: Any) -> Any:
    """Number of set bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


# --- what several files of kernels use --------------------------------------------------------------------------

P1 = np.uint64(0x9E3779B185EBCA87)  # of XXH64
P2 = np.uint64(0xC2B2AE3D27D4EB4F)
CONTINUES = np.uint8(0xC0)  # a byte of UTF-8 continues a character where these bits of it are 10
TOPS = np.uint64(0x8080808080808080)


@compiled
def rotate(value: U64, bits: int) -> U64:
    """Bits turned to the left."""
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))
