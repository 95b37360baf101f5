"""`tmask merge`: shards of masks, checked and put together by an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmask.blocks.layouts import all_in_words
from tmask.cli.console import complain
from tmask.cli.exit_codes import Code, reports_errors
from tmask.cli.options import Json, Overwrite, check_outputs
from tmask.cli.output import show_json, show_table
from tmask.files.opening import open_weights
from tmask.sharding.checking import check_record
from tmask.sharding.masked_shards import check_masked_shards, finish_with_weights
from tmask.sharding.merging import find_shards, index_path, open_shards


@reports_errors
def merge(
    masks: Annotated[Path, typer.Argument(help="The output that `tmask solve --shard` was given.")],
    weights: Annotated[Path, typer.Argument(help="The weights that the masks were made for.")],
    masked_weights: Annotated[
        str | None, typer.Option(help="The folder of masked weights that `tmask solve --shard` was given.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Check every proof of all shards, and write their index; name shards that are missing, or of another run.

    Exit code 1 if a mask fails; there is no index then.
    """
    check_outputs([weights], [index_path(masks)], overwrite)
    shards = open_shards(find_shards(masks))
    source = open_weights(weights)
    folder = None
    if masked_weights is not None:
        folder = check_masked_shards(masked_weights, source, overwrite, None)
    rows = []
    for path, records in shards.items():
        results = [check_record(record, source) for record in records.values()]
        failed = [result for result in results if result["problem"]]
        for result in failed:
            complain(f"{path.name}: {result['layer']}: {result['problem']}")
        optimal = sum(result["verdict"] == "optimal" for result in results)
        read_as = all_in_words(result["read_as"] for result in results)
        rows.append(
            {"shard": path.name, "layers": len(results), "read_as": read_as, "optimal": optimal, "failed": len(failed)}
        )
    if any(row["failed"] for row in rows):
        raise typer.Exit(Code.CHECK_FAILED)
    written = finish_with_weights(masks, shards, source, folder, overwrite)
    if json:
        show_json({"index": str(written[0]), "shards": rows, "written": [str(path) for path in written]})
        return
    words = [{column.replace("_", " "): str(value) for column, value in row.items()} for row in rows]
    show_table(f"Merged, written to {' and '.join(map(str, written))}", words, texts=("shard", "read as"))
