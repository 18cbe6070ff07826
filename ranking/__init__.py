"""Multi-task ranking: Parquet impressions to a promoted model, one package for each stretch of the road."""
