"""`splattingocc test` under the name that people of this field type."""

import sys

from splattingocc.cli import main

main(["test", *sys.argv[1:]])
