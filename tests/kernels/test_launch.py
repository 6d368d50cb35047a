import threading
import time
from typing import Any

import pytest
import torch

from splattingocc.kernels import launch as module


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for kernels that take a while; what is running is counted."""
    state: dict[str, Any] = {"running": 0, "started": 0, "raise": None}
    lock = threading.Lock()

    def run(kernel: object, *, dim: int, inputs: list, device: str) -> None:
        with lock:
            state["running"] += 1
            state["started"] += 1
            number = state["started"]
        try:
            if number == 1 and state["raise"] is not None:
                raise state["raise"]
            time.sleep(0.3)
        finally:
            with lock:
                state["running"] -= 1

    monkeypatch.setattr(module.wp, "launch", run)
    monkeypatch.setattr(module, "_load", lambda module, device: None)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 2)
    return state


class Kernel:
    module = None


@pytest.mark.parametrize("fault", [ValueError("one chunk"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_no_kernel_runs_any_more_when_an_error_is_told(fault: BaseException, chunks: dict[str, Any]):
    chunks["raise"] = fault
    with pytest.raises(type(fault)):
        module.launch(Kernel, 1000, [], device=torch.device("cpu"))
    assert chunks["running"] == 0
    assert 1 < chunks["started"] < 2 * module.CHUNKS_PER_THREAD  # what had not begun is left out


def test_every_chunk_has_run_when_a_launch_returns(chunks: dict[str, Any]):
    module.launch(Kernel, 1000, [], device=torch.device("cpu"), num_chunks=4)
    assert chunks["started"] == 4
    assert chunks["running"] == 0
