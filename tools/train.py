"""`splattingocc train` under the name that people of this field type."""

import sys

from splattingocc.cli import main

main(["train", *sys.argv[1:]])
