"""The house: which folder may import which, how many files stand in each, and whether imports run in a circle.

    python -m bench.house

The table below is the architecture. `tests/test_house.py` holds the import statements against it, late ones included.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx

from bench.markdown import table

ROOT = Path(__file__).parents[1]
SOURCES = {"tmask": ROOT, "tmask_solvers": ROOT / "solvers"}  # where each package's folder stands
MOST_FILES = 24  # in one folder, `__init__.py` aside

# A part, and the parts that its files may import, beside itself and `tmask.errors`. A module belongs to the part whose
# name is the longest that begins its own, so that `tmask` and `tmask.nn` are the faces alone: their `__init__.py`.
CORE = "tmask.blocks tmask.judging tmask.solving"
MAY_IMPORT = {
    "tmask.errors": "",
    "tmask.version": "",
    "tmask.blocks": "",
    "tmask.showing": "",
    "tmask.judging": "tmask.blocks tmask.showing",
    "tmask.solving": "tmask.blocks tmask.judging tmask.showing",
    "tmask.diversity": "tmask.blocks",
    "tmask.conversion": "tmask.blocks",
    "tmask.allocation": "tmask.blocks tmask.solving tmask.showing",
    "tmask.comparison": f"{CORE} tmask.showing",
    "tmask.front": "tmask.blocks tmask.solving tmask.comparison tmask.files tmask.plots tmask.showing",
    "tmask": f"{CORE} tmask.files tmask.front tmask.sharding tmask.version",
    "tmask.files": "tmask.version tmask.blocks",
    "tmask.sharding": f"{CORE} tmask.files tmask.showing tmask.version",
    "tmask.plots": "tmask.blocks tmask.comparison tmask.files tmask.showing",
    "tmask.nn.names": "",
    "tmask.nn.distributed": "",
    "tmask.nn.libraries": "tmask.files",
    "tmask.nn.mask": "tmask.blocks",
    "tmask.nn.packing": "tmask.version tmask.blocks tmask.files tmask.nn.mask",
    "tmask.nn.layers": f"tmask {CORE} tmask.showing tmask.nn.distributed tmask.nn.libraries tmask.nn.mask "
    "tmask.nn.packing",
    "tmask.nn.training": "tmask tmask.blocks tmask.judging tmask.solving tmask.showing tmask.nn.distributed "
    "tmask.nn.mask tmask.nn.packing tmask.nn.layers tmask.nn.names",
    "tmask.nn.calibration": "tmask.files tmask.showing",
    "tmask.nn.fitting": f"{CORE} tmask.showing tmask.nn.names tmask.nn.calibration tmask.nn.libraries tmask.nn.methods",
    "tmask.nn.methods": CORE,
    "tmask.nn.blockwise": "tmask.blocks tmask.solving tmask.files tmask.showing tmask.nn.calibration "
    "tmask.nn.distributed tmask.nn.libraries tmask.nn.methods",
    "tmask.nn.pruning": f"{CORE} tmask.showing tmask.conversion tmask.files tmask.nn.names tmask.nn.calibration "
    "tmask.nn.fitting tmask.nn.libraries tmask.nn.methods",
    "tmask.nn.integrations": "tmask tmask.blocks tmask.nn.distributed tmask.nn.mask tmask.nn.training",
    "tmask.nn.recipes": "tmask.nn.layers tmask.nn.training",
    "tmask.nn.diversity": "tmask.blocks tmask.diversity tmask.nn.calibration tmask.nn.names",
    "tmask.nn": "tmask.nn.blockwise tmask.nn.calibration tmask.nn.diversity tmask.nn.fitting tmask.nn.layers "
    "tmask.nn.methods tmask.nn.packing tmask.nn.pruning tmask.nn.recipes tmask.nn.training",
    "tmask.cli": f"tmask {CORE} tmask.showing tmask.allocation tmask.comparison tmask.diversity tmask.files "
    "tmask.plots tmask.sharding tmask.nn.blockwise tmask.nn.calibration tmask.nn.methods tmask.nn.packing "
    "tmask.nn.pruning",
    "tmask.__main__": "tmask.cli",
    "tmask_solvers.shared": "tmask.blocks tmask.showing",
    "tmask_solvers.cpu_kernels": "tmask.blocks tmask_solvers.shared",
    "tmask_solvers.torch_kernels": "tmask_solvers.shared",
    "tmask_solvers.cuda_kernels": "tmask_solvers.shared tmask_solvers.cpu_kernels",
    "tmask_solvers": f"{CORE} tmask_solvers.shared tmask_solvers.cpu_kernels tmask_solvers.torch_kernels "
    "tmask_solvers.cuda_kernels",
}


def allowed(part: str) -> set[str]:
    """The parts that files of a part may import."""
    return {part, "tmask.errors", *MAY_IMPORT[part].split()}


def modules() -> dict[str, Path]:
    """Every module of the two packages, with its file."""
    found = {}
    for package, source in SOURCES.items():
        for path in sorted((source / package).rglob("*.py")):
            found[".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def part_of(module: str) -> str:
    """The part of the table that a module belongs to."""
    while module not in MAY_IMPORT:
        module = module.rpartition(".")[0]
    return module


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The known modules that a file imports, by statements at the top and late ones."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import name` may name a module of the package, or something in its face.
            submodules = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names = [name if name in known else node.module for name in submodules.values()]
        yield from (name for name in names if name in known)


def import_graph() -> networkx.DiGraph[str]:
    """An edge from each module to each that it imports."""
    known = modules()
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(known)
    graph.add_edges_from((module, name) for module, path in known.items() for name in imports(path, known))
    return graph


def part_graph(graph: networkx.DiGraph[str]) -> networkx.DiGraph[str]:
    """An edge from each part to each other one that its files import, `tmask.errors` aside, which all may."""
    parts: networkx.DiGraph[str] = networkx.DiGraph()
    parts.add_nodes_from(MAY_IMPORT)
    pairs = {(part_of(module), part_of(name)) for module, name in graph.edges}
    parts.add_edges_from((part, other) for part, other in pairs if part != other != "tmask.errors")
    return parts


def circles(graph: networkx.DiGraph[str]) -> list[list[str]]:
    """Groups of nodes each of which imports the others, by whatever way."""
    return [sorted(group) for group in networkx.strongly_connected_components(graph) if len(group) > 1]


def files_per_folder() -> Counter[str]:
    """Modules in each folder, `__init__.py` aside."""
    return Counter(str(path.parent.relative_to(ROOT)) for path in modules().values() if path.name != "__init__.py")


def main() -> None:
    """Print the count of files in each folder, and the circles among files and among parts."""
    graph = import_graph()
    parts = part_graph(graph)
    print(table(["folder", "files"], [(folder, str(files)) for folder, files in sorted(files_per_folder().items())]))
    print(f"\nmost files in one folder: {max(files_per_folder().values())} (at most {MOST_FILES})")
    print(f"parts: {len(parts)}, imports among them: {parts.number_of_edges()}")
    for kind, found in (("files", circles(graph)), ("parts", circles(parts))):
        print(f"circles of imports among {kind}: {len(found)}", *(", ".join(circle) for circle in found), sep="\n  ")


if __name__ == "__main__":
    main()
