"""Prepare: raw files of a public data set to partitioned Parquet, and the transforms fitted on the training split."""

from __future__ import annotations

from pipelines.job import job, say
from ranking.config import RunConfig
from ranking.data.growth import extended, shifts
from ranking.data.transforms import Transforms


def prepare(config: RunConfig) -> None:
    """Write the data set of the `prepare` section, if there is one, and fit the transforms on `data.train`."""
    if config.prepare is not None:
        config.prepare.run()
        say(f"wrote {config.prepare.output}")
    schema, data = config.schema, config.data
    manifest = data.manifest(data.train, schema.feature_columns(), "data.train")
    fitted = Transforms.fit(schema, data.raw_rows(manifest))
    if data.extends:
        earlier = Transforms.load(data.extends)
        fitted, own = extended(schema, fitted, earlier), fitted
        say(f"extends {data.extends}: {growth(fitted, earlier)}; {drift(own, fitted)}")
    fitted.save(data.transforms)
    say(f"fitted the transforms on {manifest.rows} rows of {len(manifest.shards)} files into {data.transforms}")


def growth(now: Transforms, before: Transforms) -> str:
    """How many keys every vocabulary gained, those that gained none left out."""
    known = {table: len(keys) for table, keys in before.vocabularies.items()}
    gained = {table: len(keys) - known.get(table, 0) for table, keys in now.vocabularies.items()}
    new = ", ".join(f"{table} +{gain}" for table, gain in gained.items() if gain)
    return f"new keys {new or 'none'}"


def drift(own: Transforms, kept: Transforms) -> str:
    """The numbers that moved farthest from the scaling that is kept."""
    farthest = ", ".join(f"{s.feature} {s.mean:+.2f} sd (spread x{s.spread:.2f})" for s in shifts(own, kept)[:3])
    return f"scaling kept, farthest from it {farthest or 'nothing'}"


main = job(prepare)

if __name__ == "__main__":
    main()
