"""What torch saves: archives of tensors and of a pickle that says how they belong together."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splattingocc.files.arrays import ENCRYPTED
from splattingocc.files.reading import BadFile, decoding, open_regular


def has_all_records(path: Path) -> bool:
    """Say whether an archive holds all that was written: its table of contents is there and every checksum is right."""
    try:
        with open_regular(path) as file, decoding(path, "a checkpoint"), zipfile.ZipFile(file) as archive:
            # torch stores its records as they are: anything else is damage, or an archive that could grow without end
            plain = all(entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & ENCRYPTED for entry in archive.infolist())
            return plain and archive.testzip() is None
    except BadFile:
        return False


@contextmanager
def only_plain_values() -> Iterator[None]:
    """Say in our own words what torch refuses to unpickle inside: its own advise to unpickle it all the same."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError("damaged, or holds other things than tensors and plain values, which are never loaded") from error
