"""Everything that touches a disk: reading what others wrote without believing it, and writing what a later run reads.

Whatever a file claims of itself (its size, its shape, its kind) is checked before anything is allocated for it, and whatever a
decoder raises on damaged bytes becomes one line that names the file.
"""

from splattingocc.files.archives import has_all_records, only_plain_values
from splattingocc.files.arrays import read_array, read_arrays, read_only_array
from splattingocc.files.images import open_image
from splattingocc.files.lock import sole_writer
from splattingocc.files.names import check_name, check_relative, child
from splattingocc.files.reading import (
    BadFile,
    decoding,
    first_line,
    json_of,
    open_regular,
    read_bytes,
    read_json,
    read_sealed_json,
    sha256_of,
    without_type,
)
from splattingocc.files.writing import naming_the_file, write_atomically, write_json, write_sealed_json

__all__ = [
    "BadFile",
    "check_name",
    "check_relative",
    "child",
    "decoding",
    "first_line",
    "has_all_records",
    "json_of",
    "naming_the_file",
    "only_plain_values",
    "open_image",
    "open_regular",
    "read_array",
    "read_arrays",
    "read_bytes",
    "read_json",
    "read_only_array",
    "read_sealed_json",
    "sha256_of",
    "sole_writer",
    "without_type",
    "write_atomically",
    "write_json",
    "write_sealed_json",
]
