"""A runner that is as unkind as a cloud: it plays every liberty that Dataflow takes and the local runner does not.

It executes the graph that `build` assembled, with the real DoFns. Bundles have random sizes and orders; each is tried
more than once, in two processes, also at the same time; an attempt may die after half of its elements, half of its
outputs or half of the objects that it writes; only one attempt's output counts. Values go through their coder between
all steps, side inputs come in any order, sums are added up in any shape. DoFns are unpickled for every attempt.
"""

import collections
import concurrent.futures
import multiprocessing
import random
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import registry
from apache_beam.internal import pickler
from apache_beam.pipeline import AppliedPTransform
from apache_beam.transforms.core import ParDo
from apache_beam.transforms.util import Reshuffle
from apache_beam.utils.windowed_value import WindowedValue

from transforms.storage_local import LocalStore

PLAIN = "main"


class Died(Exception):
    """The machine of an attempt went away."""


def attempt(function: bytes, arguments: bytes, elements: list[Any], budget: int | None) -> list[tuple[str, Any]] | None:
    """Process one bundle in this process; None when it died after `budget` outputs or written objects."""
    dofn, (args, kwargs) = pickler.loads(function), pickler.loads(arguments)
    outputs: list[tuple[str, Any]] = []
    left = [budget]

    def spend() -> None:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise Died

    with _writes_counted(spend):
        try:
            dofn.setup()
            dofn.start_bundle()
            for element in elements:
                for out in dofn.process(element, *args, **kwargs) or ():
                    outputs.append((out.tag, out.value) if isinstance(out, beam.pvalue.TaggedOutput) else (PLAIN, out))
                    spend()
            outputs += [(PLAIN, out.value) for out in dofn.finish_bundle() or () if isinstance(out, WindowedValue)]
            dofn.teardown()
        except Died:
            return None
    return outputs


class _writes_counted:  # noqa: N801 - used as a function
    """Within it, every object that is created costs one of the budget, before or after it is there."""

    def __init__(self, spend: Callable[[], None]) -> None:
        self.spend, self.create, self.create_bytes = spend, LocalStore.create, LocalStore.create_bytes

    def __enter__(self) -> None:
        spend, create, create_bytes = self.spend, self.create, self.create_bytes

        def counted(store: LocalStore, url: str, path: str) -> Any:
            spend()
            return create(store, url, path)

        def counted_bytes(store: LocalStore, url: str, data: bytes) -> Any:
            found = create_bytes(store, url, data)
            spend()  # afterwards: it is there, and nobody was told
            return found

        _replace(counted, counted_bytes)

    def __exit__(self, *_: object) -> None:
        _replace(self.create, self.create_bytes)


def _replace(create: Any, create_bytes: Any) -> None:
    for name, method in (("create", create), ("create_bytes", create_bytes)):
        setattr(LocalStore, name, method)


class Unkind:
    """The runner.

    Attributes:
      tally: How often what happened: bundles, attempts, deaths, twins.
    """

    def __init__(self, seed: int, pool: concurrent.futures.Executor) -> None:
        self.chance, self.pool = random.Random(seed), pool
        self.values: dict[Any, list[Any]] = {}
        self.tally: collections.Counter[str] = collections.Counter()

    def run(self, root: beam.Pipeline) -> None:
        """Execute the whole graph."""
        (top,) = root.transforms_stack
        for part in top.parts:
            self._node(part)

    def _node(self, node: AppliedPTransform) -> None:
        step = node.transform
        if isinstance(step, beam.Create):
            self._emit(node, {PLAIN: list(step.values)})
        elif isinstance(step, Reshuffle):
            self._emit(node, {PLAIN: self._input(node)})
        elif isinstance(step, beam.CombineGlobally):
            self._emit(node, {PLAIN: [self._combined(step.fn, self._input(node))]})
        elif isinstance(step, ParDo):
            self._emit(node, self._pardo(node))
        else:
            assert node.parts, f"{node.full_label} is a primitive that this runner does not know"
            for part in node.parts:
                self._node(part)
            for tag, output in node.outputs.items():  # a composite's outputs are those of its parts
                assert output in self.values, f"{node.full_label}: {tag}"

    def _input(self, node: AppliedPTransform) -> list[Any]:
        (source,) = node.main_inputs.values()
        return self._shuffled(self.values[source])

    def _shuffled(self, values: list[Any]) -> list[Any]:
        return self.chance.sample(values, len(values))

    def _emit(self, node: AppliedPTransform, outputs: dict[str, list[Any]]) -> None:
        for tag, collection in node.outputs.items():
            coder = registry.get_coder(collection.element_type)
            found = outputs.get(PLAIN if tag in (None, "None", "plan") else tag, [])
            self.values[collection] = [coder.decode(coder.encode(value)) for value in found]

    def _combined(self, fn: Any, values: list[Any]) -> Any:
        """Accumulators of random parts of the values, serialised, merged in random twos and threes."""
        fn = beam.CombineFn.maybe_from_callable(fn)
        fn.setup()
        parts: list[Any] = []
        for chunk in self._bundles(values):
            accumulator = fn.create_accumulator()
            for value in chunk:
                accumulator = fn.add_input(accumulator, value)
            parts.append(fn.compact(accumulator))
        while len(parts) > 1:
            parts = [pickler.loads(pickler.dumps(part)) for part in self._shuffled(parts)]
            count = self.chance.randint(2, 3)
            parts = [fn.merge_accumulators(parts[:count]), *parts[count:]]
        result = fn.extract_output(parts[0] if parts else fn.create_accumulator())
        fn.teardown()
        return result

    def _bundles(self, values: list[Any]) -> Iterator[list[Any]]:
        start = 0
        while start < len(values):
            size = self.chance.choice([1, 2, 3])
            yield values[start : start + size]
            start += size

    def _pardo(self, node: AppliedPTransform) -> dict[str, list[Any]]:
        step = node.transform
        sides = iter([self._side(side) for side in node.side_inputs])

        def filled(value: Any) -> Any:
            return next(sides) if type(value).__name__ == "ArgumentPlaceholder" else value

        args = [filled(a) for a in step.args]
        kwargs = {key: filled(value) for key, value in step.kwargs.items()}
        function, arguments = pickler.dumps(step.fn), pickler.dumps((args, kwargs))
        assert b"__main__" not in function, node.full_label
        outputs: dict[str, list[Any]] = {}
        for bundle in self._bundles(self._input(node)):
            for tag, value in self._bundle(function, arguments, bundle):
                outputs.setdefault(tag, []).append(value)
        return outputs

    def _side(self, side: Any) -> Any:
        values = self._shuffled(self.values[side.pvalue])
        if isinstance(side, beam.pvalue.AsSingleton):
            (value,) = values
            return value
        return values

    def _bundle(self, function: bytes, arguments: bytes, bundle: list[Any]) -> list[tuple[str, Any]]:
        """A bundle's output after some attempts: a death first, perhaps, then twins of which one counts."""
        self.tally["bundles"] += 1

        def start(budget: int | None) -> concurrent.futures.Future[Any]:
            self.tally["attempts"] += 1
            order = self._shuffled(bundle)
            return self.pool.submit(attempt, function, arguments, order, budget)

        budget = self.chance.randint(0, len(bundle))
        kind = self.chance.choice(["death first", "twins", "a twin that dies"])
        if kind == "death first":
            self.tally["deaths"] += start(budget).result() is None
            running = [start(None)]
        else:
            running = [start(None), start(None if kind == "twins" else budget)]
            self.tally["twins"] += 1
        results = [found.result() for found in running]
        self.tally["deaths"] += sum(r is None for r in results)
        counted: list[tuple[str, Any]] = self.chance.choice([r for r in results if r is not None])
        return counted


def processes() -> concurrent.futures.ProcessPoolExecutor:
    """Two processes for the attempts, each importing everything anew."""
    return concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
