import json

from splattingocc.splatting.bench import bench_render


def test_each_case_is_one_json_line_with_times_memory_and_circumstances():
    records = bench_render(num_rays=50, repeats=2)
    assert [record["what"] for record in records] == ["gaussians, trained-like", "gaussians, untrained", "nerf sampling"]
    for record in records:
        assert json.loads(json.dumps(record)) == record
        assert 0 < record["forward_p50_s"] <= record["forward_p95_s"]
        assert 0 < record["backward_p50_s"] <= record["backward_p95_s"]
        assert record["repeats"] == 2
        assert record["peak_memory_mb"] > 0
        assert record["num_threads"] >= 1
