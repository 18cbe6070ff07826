"""From Parquet files to encoded rows: manifest, plan, decoding, transforms and the encoder."""
