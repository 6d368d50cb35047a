"""Draw the predicted grids of one scene of a prediction cache, and a film of it: visual.py DUMP_DIR/scene-xxxx [--help]."""

from splattingocc.cli import run_alone

if __name__ == "__main__":
    run_alone("visual.py", "draw.VisualizeScene")
