"""Draw the predicted grids of one scene of a prediction cache: visual.py DUMP_DIR/scene-xxxx, e.g. work_dirs/output/scene-0103"""

import sys
from pathlib import Path

from splattingocc.cli.ending import ending_well

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    with ending_well("visual.py", is_last=True):
        from splattingocc.pictures import draw_cached_grids

        print(*draw_cached_grids(Path(sys.argv[1])), sep="\n")
