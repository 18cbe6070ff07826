"""Score: Parquet through a registered model to Parquet, one column a task plus `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from pipelines.job import job, say
from ranking.config import RunConfig
from ranking.data.manifest import Manifest
from ranking.data.parquet import Decoder
from ranking.errors import InputError
from ranking.files import replacing
from ranking.promotion.registry import Registry
from ranking.serving.ranker import Ranker

Input = Annotated[list[str], typer.Option(help="URL, glob or directory of Parquet files; repeat for more.")]
Output = Annotated[Path, typer.Option(help="Directory to write; it must not exist.")]
Model = Annotated[str, typer.Option(help="champion, challenger, previous_champion, or the number of a version.")]
Keep = Annotated[list[str] | None, typer.Option(help="Column passed through, such as an id; repeat for more.")]


def score(config: RunConfig, input: Input, output: Output, model: Model = "champion", keep: Keep = None) -> None:
    """Score Parquet files with a registered model.

    Every file becomes one of the same number of rows in the same order, a row group at a time. The output directory
    appears when all is written, or not at all.
    """
    if output.exists():
        raise InputError(f"--output: got {output}, which exists; expected a new directory")
    uri = model_uri(Registry.open(config.tracking.uri, config.registry.name), model)
    ranker = load(uri)
    kept = tuple(dict.fromkeys(keep or ()))
    if set(kept) & set(ranker.outputs):
        raise InputError(f"--keep: got {sorted(set(kept) & set(ranker.outputs))}; expected columns other than answers")
    columns = tuple(dict.fromkeys([*kept, *ranker.inputs]))
    manifest = config.data.manifest(input, columns, "--input")
    decoder = config.data.decoder(manifest)
    with replacing(output) as draft:
        write(ranker, kept, manifest, decoder, draft, uri)
    say(f"{manifest.rows} rows of {len(manifest.shards)} files scored by {uri} into {output}")


def model_uri(registry: Registry, model: str) -> str:
    """What `--model` names.

    Raises:
        InputError: no version has that alias or number, or it is neither.
    """
    if model.isdecimal():
        return registry.uri(int(registry.version(int(model)).version))  # asked, so that MLflow knows where to look
    aliases = {
        "champion": registry.champion,
        "challenger": registry.challenger,
        "previous_champion": registry.previous,
    }
    if model not in aliases:
        raise InputError(f"--model: got {model!r}; expected one of {list(aliases)} or the number of a version")
    version = aliases[model]()
    if version is None:
        raise InputError(f"--model: registry {registry.name} has no {model}; expected a version that `promote` made so")
    return registry.uri(version)


def load(uri: str) -> Ranker:
    """The model's artefact; its code is not run."""
    from ranking.serving.packaging import fetch  # importing MLflow takes seconds, which wrong options need not wait

    return fetch(uri)


def write(ranker: Ranker, kept: tuple[str, ...], manifest: Manifest, decoder: Decoder, draft: Path, uri: str) -> None:
    """One output file for every shard; memory holds one row group."""
    fields = [manifest.columns.field(name) for name in kept]
    fields += [pa.field(name, pa.float64(), nullable=False) for name in ranker.outputs]
    group = 0
    for number, shard in enumerate(manifest.shards):
        schema = pa.schema(fields, metadata={"source": shard.url, "model": uri})
        file = draft / f"part-{number:05}.parquet"
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            first = 0
            for place, rows in enumerate(shard.row_groups):
                table = decoder.read(np.array([[group, 0, rows]]))
                try:
                    answer = ranker.predict(table, first)
                except InputError as error:
                    raise InputError(f"{shard.url}: row group {place}: {error}") from None
                writer.write_table(pa.table([*table.select(kept).columns, *answer.columns], schema=schema))
                group, first = group + 1, first + rows


main = job(score)

if __name__ == "__main__":
    main()
