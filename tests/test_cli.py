import json

import pytest

from splattingocc.cli import main


def test_the_bench_prints_one_json_line_for_each_case(capsys: pytest.CaptureFixture):
    main(["bench", "render", "--rays", "50", "--repeats", "1", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"gaussians, trained-like", "gaussians, untrained", "nerf sampling"} <= {row["what"] for row in rows}


def test_the_bench_prints_a_table(capsys: pytest.CaptureFixture):
    main(["bench", "render", "--rays", "50", "--repeats", "1"])
    assert "untrained" in capsys.readouterr().out
