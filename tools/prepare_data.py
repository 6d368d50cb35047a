"""`splattingocc prepare` under the name that people of this field type."""

import sys

from splattingocc.cli import main

main(["prepare", *sys.argv[1:]])
