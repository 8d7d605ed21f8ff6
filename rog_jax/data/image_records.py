"""Images that lie in record files, many to a file, instead of files of their own."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ImageRecords(Protocol):
    """The encoded pictures of a data set by their place in `Annotations`. What implements it can be pickled."""

    def read(self, place: int) -> bytes:
        """A picture as its file would hold it: JPEG, PNG, ....

        Raises:
            OSError: it cannot be read.
        """
        ...


class ArrayRecordImages:
    """Pictures in ArrayRecord files, in the order of the files."""

    def __init__(self, paths: Sequence[str]):
        self._paths = [str(path) for path in paths]
        self._records: Any = None

    def __len__(self) -> int:
        return len(self._opened())

    def read(self, place: int) -> bytes:
        try:
            return bytes(self._opened()[place])
        except (ValueError, RuntimeError, IndexError) as error:  # how array_record tells of broken files
            raise OSError(f"record {place} of {self._paths[0]} cannot be read: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths, "_records": None}

    def _opened(self) -> Any:
        if self._records is None:
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            self._records = ArrayRecordDataSource(self._paths)
        return self._records
