import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from splattingocc.files import sole_writer

HOLD = (
    "import sys, time; from pathlib import Path; from splattingocc.files import sole_writer\n"
    "with sole_writer(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
)


def holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_folder_has_one_writer_and_is_free_when_that_is_killed(tmp_path):
    with holder(tmp_path) as process:
        with pytest.raises(ValueError, match=f"{tmp_path}: being written by process {process.pid}"), sole_writer(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with sole_writer(tmp_path), sole_writer(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()
    assert not list(tmp_path.iterdir())


def test_a_forked_process_does_not_keep_the_lock_of_a_killed_one(tmp_path):
    script = HOLD.replace("print(", "pid = os.fork(); pid == 0 and time.sleep(20); print(").replace("import sys", "import os, sys")
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        with sole_writer(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
