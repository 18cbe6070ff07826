"""The tensors of a commit, read without trusting its directory: DCP's metadata is a pickle, and a pickle can run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from ranking.errors import InputError, described, one_line
from ranking.training.commits import Commit, attempt_path
from ranking.training.layout import LayoutLoadPlanner, layout_of

_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},
}


class Stored(FileSystemReader):
    """Reads a commit whose bytes were verified; no class but those of DCP's metadata is ever loaded.

    Args:
        directory: of the checkpoints.
        commit: what to read.
    """

    def __init__(self, directory: Path, commit: Commit) -> None:
        """Read the metadata.

        Raises:
            InputError: it is not DCP's, or leads outside the commit.
        """
        super().__init__(attempt_path(directory, commit))
        self.commit = commit
        self._metadata = self._checked()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, whole, by the names of `TrainState`."""
        return {name: tuple(entry.size) for name, entry in self._entries.items()}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors whole, in this process, whatever plan saved them."""
        entries = {name: self._entries[name] for name in names}
        tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            layout = {name: layout_of(tensor) for name, tensor in tensors.items()}
            try:
                dcp.load(layout, storage_reader=self, planner=LayoutLoadPlanner(), no_dist=True)
            except CheckpointException as error:
                raise InputError(f"{self.path}: cannot be read: {reason(error)}") from None
        return tensors

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What DCP asks for."""
        return self._metadata

    @property
    def _entries(self) -> dict[str, TensorStorageMetadata]:
        return self._metadata.state_dict_metadata  # type: ignore[return-value]  # checked: tensors only

    def _checked(self) -> Metadata:
        file = Path(self.path) / ".metadata"
        try:
            with file.open("rb") as stream:
                metadata = _Unpickler(stream).load()
            places = {info.relative_path for info in metadata.storage_data.values()}
            entries = metadata.state_dict_metadata.values()
        except (pickle.UnpicklingError, AttributeError, EOFError, OSError, TypeError, ValueError) as error:
            raise InputError(f"{file}: {one_line(error)}; expected DCP's metadata") from None
        if odd := sorted(places - self.commit.files.keys()):
            raise InputError(f"{file}: names {odd[0]!r}; expected files of the commit of step {self.commit.step}")
        if not all(isinstance(entry, TensorStorageMetadata) for entry in entries):
            raise InputError(f"{file}: holds pickled objects; expected tensors only")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        return metadata  # type: ignore[no-any-return]


def reason(error: CheckpointException) -> str:
    """The first rank's failure as one line: the exception is no Exception, and its text is every rank's stack."""
    rank, (failure, _) = min(error.failures.items(), key=lambda item: item[0])
    return f"rank {rank}: {brief(failure)}"


def brief(error: BaseException) -> str:
    """What happened, without the stack; an OSError tells its type by itself."""
    return (one_line if isinstance(error, OSError) else described)(error)[:300]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return super().find_class(module, name)
