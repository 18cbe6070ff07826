"""Processes, collectives and sharded embeddings: the only packages that know there is more than one rank."""
