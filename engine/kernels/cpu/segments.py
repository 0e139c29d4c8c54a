"""Many flat arrays worked through as one: a kernel gets their addresses in a table and cuts them into equal chunks.

The arrays lie, in thought, one behind the other, each from a multiple of 16 on: `starts` has the first place of each
and, last, the end of all. So a chunk may end within an array and hold several small ones.

    for chunk in range(lo, hi):
        place, end = chunk * CHUNK, min((chunk + 1) * CHUNK, starts[len(starts) - 1])
        s = segment_at(starts, place)
        while place < end:
            x = array_at(table, s, like)               # flat, in the dtype of the array `like`
            first = place - starts[s]
            last = min(len(x), end - starts[s])        # work on x[first:last]
            s, place = s + 1, starts[s + 1]
"""

from collections.abc import Sequence

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import jit
from .lanes import inline
from .simd import I64, LANES

CHUNK = 4096


def starts(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The first place of each array, and the end of all."""
    return np.cumsum([0, *(-(-a.size // LANES) * LANES for a in arrays)], dtype=np.int64)


@intrinsic
def _flat_at(typingctx, address, size, like):
    line = types.Array(like.dtype, 1, "C")

    def codegen(context, builder, sig, values):
        result = context.make_array(line)(context, builder)
        itemsize = I64(context.get_abi_sizeof(context.get_data_type(like.dtype)))
        result.data = builder.inttoptr(values[0], result.data.type)
        result.shape = cgutils.pack_array(builder, [values[1]], I64)
        result.strides = cgutils.pack_array(builder, [itemsize], I64)
        result.nitems, result.itemsize = values[1], itemsize
        result.meminfo = cgutils.get_null_value(result.meminfo.type)
        result.parent = cgutils.get_null_value(result.parent.type)
        return result._getvalue()

    return line(types.int64, types.int64, like), codegen


@inline
def array_at(table, i, like):
    """Array number i of a table of `tape.addresses`, in the dtype of the array `like`."""
    return _flat_at(table[i, 0], table[i, 1], like)


@jit
def segment_at(starts, place):
    """The array in which a place lies."""
    low, high = 0, len(starts) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= place:
            low = middle
        else:
            high = middle
    return low
