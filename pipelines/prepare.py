"""Prepare: a publisher's files to partitioned Parquet, and the transforms fitted on the training split."""

from __future__ import annotations

from pipelines.doctor import tables
from pipelines.job import job, say
from ranking.config import RunConfig
from ranking.data.manifest import Manifest
from ranking.data.transforms import Transforms


def prepare(config: RunConfig) -> None:
    """Write the data set of the `prepare` section, if there is one, and fit the transforms on `data.train`."""
    if config.prepare is not None:
        config.prepare.run()
        say(f"wrote {config.prepare.output}")
    schema, data = config.schema, config.data
    manifest = Manifest.build(data.train, schema.feature_columns(), data.storage_options, "data.train")
    Transforms.fit(schema, tables(manifest, config)).save(data.transforms)
    say(f"fitted the transforms on {manifest.rows} rows of {len(manifest.shards)} files into {data.transforms}")


main = job(prepare)

if __name__ == "__main__":
    main()
