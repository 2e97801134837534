"""fastText's way from a hidden vector to labels (loss.cc): softmax, one-vs-all and hierarchical softmax."""

import numpy as np
import numpy.typing as npt

from classifiers.compiled import F32, Bytes, Floats, Offsets, compiled, integer
from classifiers.lanes import LANES, aligned, dot, float_at, int_at
from classifiers.network import HIERARCHICAL, SOFTMAX, Memory, Network, hidden_of, new_memory, slots_of


@compiled
def _log(x: F32) -> F32:
    """std_log of loss.cc: never below log(1e-5), and above 0 near 1."""
    return np.float32(np.log(np.float64(x) + 1e-5))


@compiled
def _sigmoid(net: Network, x: F32) -> F32:
    """Loss::sigmoid: a table of 512 steps over [-8, 8)."""
    if x < -8:
        return np.float32(0)
    if x > 8:
        return np.float32(1)
    return float_at(net.sigmoid + 4 * integer((x + np.float32(8)) * np.float32(512) / np.float32(8) / np.float32(2)))


@compiled
def _right(net: Network, memory: Memory, node: int) -> F32:
    """Probability of the right child of an inner node."""
    x = dot(net.output + (node - net.labels) * net.width * 4, memory.hidden, net.width)
    return np.float32(1.0 / np.float64(np.float32(1) + np.exp(-x)))


@compiled
def _child(net: Network, node: int, right: int) -> int:
    """Left or right child, -1 for a leaf."""
    return integer(int_at(net.tree + 8 * node + 4 * right))


@compiled
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


@compiled
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


@compiled
def _outputs(net: Network, memory: Memory, out: Floats) -> None:
    """Probability of every label without a tree (Loss::computeOutput)."""
    highest, total = np.float32(-np.inf), np.float32(0)
    for label in range(net.labels):
        out[label] = dot(net.output + label * net.width * 4, memory.hidden, net.width)
        highest = max(highest, out[label])
    for label in range(net.labels):
        out[label] = np.exp(out[label] - highest) if net.loss == SOFTMAX else _sigmoid(net, out[label])
        total += out[label]
    for label in range(net.labels if net.loss == SOFTMAX else 0):
        out[label] /= total


@compiled
def _best_output(out: Floats) -> int:
    """Loss::findKBest with k = 1: it compares logarithms, and the later of equals wins."""
    best, score = 0, _log(out[0])
    for label in range(1, len(out)):
        if _log(out[label]) >= score:
            best, score = label, _log(out[label])
    return best


@compiled
def _predict_all(net: Network, memory: Memory, data: Bytes, starts: Offsets, ends: Offsets, out: Floats) -> None:
    scores, base = np.empty(2 * net.labels, np.float32), data.ctypes.data
    for i in range(len(starts)):
        out[i] = np.float32(0)
        if not hidden_of(net, memory, base + starts[i], base + ends[i], base + len(data)):
            continue
        if net.loss == HIERARCHICAL:
            _leaves(net, memory, scores, out[i])
        else:
            _outputs(net, memory, out[i])


@compiled
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
        if not hidden_of(net, memory, base + starts[i], base + ends[i], base + len(data)):
            continue
        if net.loss == HIERARCHICAL:
            best, score = _best_leaf(net, memory, nodes, scores)
            labels[i], out[i] = best, min(np.float32(1), np.exp(score)) if best >= 0 else np.float32(0)
        else:
            every = scores[: net.labels]
            _outputs(net, memory, every)
            labels[i] = _best_output(every)
            out[i] = every[labels[i]]


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


def warm_up(data: Bytes, starts: Offsets, ends: Offsets) -> None:
    """Compile what scores, or load it from `__pycache__`, by scoring a `batch` with a network of one word."""
    offsets, rows = np.array([0, 4, 5], np.int64), aligned(np.zeros((4, LANES), np.float32))
    blob, sigmoid = np.frombuffer(b"warmx", np.uint8), np.zeros(513, np.float32)
    slots, at = slots_of(blob, offsets), rows.ctypes.data
    net = Network(
        at, 0, 0, blob.ctypes.data, offsets.ctypes.data, slots.ctypes.data, len(slots) - 1, at, 0, sigmoid.ctypes.data,
        width=LANES, words=1, labels=1, bucket=1, reciprocal=1 << 32, minn=0, maxn=0, ngrams=1, loss=SOFTMAX,
        end_entry=-1,
    )  # fmt: skip
    memory, kept = new_memory(net)
    predict_all(net, memory, data, starts, ends)
    predict_best(net, memory, data, starts, ends)
    del kept, rows  # `net` and `memory` are addresses within these
