"""The layers of a weight file solved one after another, each kept as soon as it is done."""

from __future__ import annotations

from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.errors import InvalidProblemError, TmaskError
from tmask.files.layers import Layer
from tmask.files.masks import MaskRecord
from tmask.files.packed_mask import PackedMask
from tmask.files.partial import PartialStore
from tmask.files.tensors import Tensor
from tmask.files.weight_file import WeightFile
from tmask.sharding.merging import mark
from tmask.sharding.place import Place
from tmask.sharding.plan import fingerprint, split
from tmask.showing.progress import ProgressCall
from tmask.solving.api import solve
from tmask.solving.settings import settings_text
from tmask.solving.solver import Solver
from tmask.version import __version__


class LayerRun:
    """The layers one after another; `records` are those that are done, `resumed` how many of them were before."""

    def __init__(
        self,
        source: WeightFile,
        layers: list[Layer],
        pattern: Pattern,
        solver: Solver | None,
        certify: bool,
        store: PartialStore,
        of_shard: str,
        keep_zeros: bool = False,
    ) -> None:
        self.source, self.layers, self.pattern = source, layers, pattern
        self.solver, self.certify, self.store = solver, certify, store
        self.of_shard, self.keep_zeros = of_shard, keep_zeros
        self.settings = "" if solver is None else settings_text(solver)
        self.records: list[MaskRecord] = []
        self.resumed = 0

    def solve(self, progress: ProgressCall) -> None:
        """All layers.

        Args:
            progress: called with blocks done, of how many, and the layer that they are of.
        """
        counts = [_num_blocks(layer, self.pattern) for layer in self.layers]
        for index, layer in enumerate(self.layers):
            before = sum(counts[:index])
            tell = _beginning(progress, before, sum(counts), f"{index + 1} of {len(counts)}, {layer.name}")
            tell(0, 0, "")  # a layer from the store reports no progress of its own
            self.records.append(self._layer(layer, tell))
        progress(sum(counts), sum(counts), "")

    def _layer(self, layer: Layer, progress: ProgressCall) -> MaskRecord:
        """From the store, or solved and put there."""
        tensor = _read(self.source, layer)
        sha256 = tensor.sha256()
        # All that the mask depends on, its weights aside.
        name = "auto" if self.solver is None else self.solver.name
        job = (
            f"{self.pattern} groups={layer.groups} layout={layer.layout} {name} {self.settings} certify={self.certify}"
        )
        job += f" tmask={__version__}" + " keep_zeros" * self.keep_zeros + self.of_shard
        if (record := self.store.get(layer.name, job, sha256)) is not None:
            self.resumed += 1
            return record
        try:
            solution = solve(
                tensor.values(),
                self.pattern,
                self.solver or "auto",
                groups=layer.groups,
                layout=layer.layout,
                certify=self.certify,
                progress=progress,
                keep_zeros=self.keep_zeros,
            )
        except TmaskError as error:
            raise type(error)(f"layer {layer.name!r}: {error}") from error
        record = MaskRecord(
            name=layer.name,
            packed=PackedMask.of(solution.mask),
            pattern=solution.pattern,
            groups=layer.groups,
            solver=solution.solver,
            settings=self.settings,
            objective=solution.objective,
            dual_bound=solution.dual_bound,
            total=solution.total,
            status=str(solution.status),
            seconds=solution.seconds,
            weights_sha256=sha256,
            job=job,
            at_most=self.keep_zeros,
            layout=solution.layout,
            band=layer.band,
        )
        self.store.put(record)
        return record


def _beginning(progress: ProgressCall, before: int, total: int, name: str) -> ProgressCall:
    """Progress within one layer, of which so many blocks come before."""
    return lambda done, of_layer, text: progress(before + done, total, name)


def share_of(layers: list[Layer], place: Place | None, m: int) -> tuple[list[Layer], str]:
    """The layers and bands of a place, in the order of the file, and what the jobs of a shard end with; all layers
    without a place."""
    if place is None or place.count == 1:
        return layers, ""
    shares = split(layers, place.count, m)
    plan = fingerprint(((piece.name, piece.shape) for share in shares for piece in share), place.count)
    return shares[place.index - 1], mark(place, plan)


def _read(source: WeightFile, layer: Layer) -> Tensor:
    """A layer, or the band of one that it is."""
    if layer.band is None:
        return source.read(layer.name)
    part = source.parts(layer.band.of)(*layer.band.entries)
    return Tensor(part.dtype, part.bits.reshape(layer.shape))


def _num_blocks(layer: Layer, pattern: Pattern) -> int:
    try:
        return Tiling(layer.shape, pattern, layer.groups, layer.layout).num_blocks
    except InvalidProblemError as error:
        raise InvalidProblemError(f"layer {layer.name!r}: {error}") from error
