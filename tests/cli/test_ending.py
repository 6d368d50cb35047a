import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splattingocc.cli.ending import INTERRUPTED, LONGEST_MESSAGE, NOBODY_READS, ending_well, one_line
from splattingocc.files import BadFile

ROOT = Path(__file__).parents[2]
CONFIG = "configs/splattingocc/splattingocc-synth.py"
BEGUN = "import sys\nfrom splattingocc.cli.ending import ending_well\n"


def program(text: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True, **options
    )


COMMAND = "import runpy; print('begun', flush=True); runpy.run_module('splattingocc.cli', run_name='__main__', alter_sys=True)"


def command(*words: str, before: float) -> tuple[int, str]:
    """Return status and errors of a command that gets Ctrl-C, as a terminal sends it to all its processes, some seconds after it began.

    The seconds that Python itself takes to start do not count: a busy machine may take any number of them.
    """
    words = (sys.executable, "-c", COMMAND, *words)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(before)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors


@pytest.mark.parametrize("before", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("words", [["bench", "render"], ["train", CONFIG, "--data.dataroot", "/dev/null"]], ids=["bench", "train"])
def test_ctrl_c_while_a_command_imports_ends_it_with_130_and_a_word(words: list[str], before: float):
    status, errors = command(*words, before=before)
    if status == 1:  # the machine was quicker, and the error came first
        assert errors.count("\n") == 1
    else:
        assert (status, errors) == (130, "splattingocc: interrupted\n")


LABELLING = f"""{BEGUN}from pathlib import Path
from splattingocc.data.nuscenes import read_index
from splattingocc.labels.generate import generate_labels
if __name__ == "__main__":
    with ending_well(is_last=True):
        dataroot, out = map(Path, sys.argv[1:])
        index = read_index(dataroot, "v1.0-tiny", cache_dir=out)
        print("begun", flush=True)
        generate_labels(index, dataroot, out, num_workers=2, show_progress=False)
"""


def alive_in_group(group: int) -> list[str]:
    """Return the processes of a group that have not ended."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if line.split()[0] == str(group) and not line.split()[1].startswith("Z")]


def test_ctrl_c_ends_the_processes_that_make_labels_too(tiny_dataroot: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(LABELLING)
    words = [sys.executable, str(script), str(tiny_dataroot), str(tmp_path / "labels")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, start_new_session=True, env=environment, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        deadline = time.monotonic() + 30
        while sum("spawn_main" in line for line in alive_in_group(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)  # its workers import now, which takes longer
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "splattingocc: interrupted\n")
    for _ in range(50):
        if not alive_in_group(process.pid):
            break
        time.sleep(0.2)
    assert alive_in_group(process.pid) == []


def test_ctrl_c_after_the_work_is_done_says_nothing():
    text = (
        f"{BEGUN}import atexit, time\natexit.register(time.sleep, 30)\nwith ending_well(is_last=True):\n    pass\nprint('done', flush=True)"
    )
    with program(text) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "")


def test_a_second_ctrl_c_ends_what_cleans_up_for_ever():
    text = f"""{BEGUN}import atexit, time
def clean_up():
    print("cleaning", flush=True)
    time.sleep(30)
atexit.register(clean_up)
with ending_well(is_last=True):
    print("working", flush=True)
    time.sleep(30)
"""
    with program(text) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "cleaning\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "splattingocc: interrupted\n")


@pytest.mark.parametrize("frees", ["del x", "x.self = x; del x; import gc; gc.collect()"], ids=["del", "gc"])
def test_ctrl_c_inside_of_what_must_not_raise_is_not_lost(frees: str):
    text = f"""{BEGUN}import time
class Slow:
    def __del__(self):
        print("freeing", flush=True)
        time.sleep(2)
with ending_well(is_last=True):
    x = Slow()
    {frees}
    time.sleep(30)
"""
    with program(text) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "freeing\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "splattingocc: interrupted\n")


def test_who_is_started_deaf_to_ctrl_c_stays_so():
    text = f"{BEGUN}import os, signal\nwith ending_well(is_last=True):\n    os.kill(os.getpid(), signal.SIGINT)\n    print('heard nothing')"
    with program(text, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) as process:
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "heard nothing\n", "")


def test_the_handler_is_given_back_to_who_calls_commands_from_python():
    before = signal.getsignal(signal.SIGINT)
    with ending_well():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def piped(text: str, *, stream: str = "stdout") -> tuple[int, str]:
    """Return status and errors of a program whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer}
    with subprocess.Popen([sys.executable, "-c", text], text=True, cwd=ROOT, **streams) as process:
        os.close(writer)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors or ""


@pytest.mark.parametrize(
    "action",
    [
        "print('few words')",
        "print('many words\\n' * 100_000)",
        "print('x' * 10_000, flush=True)",
        "from rich.console import Console; Console().print('x')",
        "print('x'); sys.exit(0)",
    ],
)
def test_output_that_nobody_reads_ends_a_command_quietly(action: str):
    assert piped(f"{BEGUN}with ending_well(is_last=True):\n    {action}") == (NOBODY_READS, "")


def test_an_error_that_nobody_reads_is_quiet_too():
    status, _ = piped(
        f"{BEGUN}with ending_well(is_last=True):\n    print('fine', flush=True)\n    raise ValueError('wrong')", stream="stderr"
    )
    assert status == 1


def test_another_pipe_that_breaks_is_an_error_as_any():
    with pytest.raises(SystemExit) as ended, ending_well():
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    assert ended.value.code == "splattingocc: Broken pipe"


@pytest.mark.parametrize("action", ["print('few words')", "print('x' * 100_000)", "print('x', flush=True)"])
def test_a_full_output_is_one_line(action: str):
    with open("/dev/full", "w") as full:
        text = f"{BEGUN}with ending_well(is_last=True):\n    {action}"
        finished = subprocess.run([sys.executable, "-c", text], stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert finished.returncode == 1
    assert finished.stderr.startswith("splattingocc: standard output")
    assert finished.stderr.endswith("No space left on device\n")
    assert finished.stderr.count("\n") == 1


def test_a_command_works_with_all_its_outputs_closed(tmp_path: Path):
    text = f"{BEGUN}with ending_well(is_last=True):\n    print('x')\n    file = open({str(tmp_path / 'file')!r}, 'w')\n"
    text += "    file.write(str(file.fileno()))"
    finished = subprocess.run(["bash", "-c", f'exec "{sys.executable}" -c "$0" >&- 2>&- <&-', text], check=False, cwd=ROOT, timeout=60)
    assert finished.returncode == 0
    assert int((tmp_path / "file").read_text()) > 2  # what is printed does not end in a file


class Title(ValueError):
    signal_number = int(signal.SIGTERM)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n\n  the first line  \nanother"), "the first line"),
        (ValueError(""), "ValueError"),
        (BadFile(Path("a/b"), "damaged"), "a/b: damaged"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a → b: Invalid cross-device link"),
        (OSError("what a library says\nof it"), "what a library says"),
        (MemoryError(), "takes more memory than there is"),
        (MemoryError("Unable to allocate 8.00 TiB"), "takes more memory than there is: Unable to allocate 8.00 TiB"),
        (RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: you tried"), "takes more memory than there is: [x] Default"),
        (
            ValueError("Caught ValueError in a worker.\nTraceback (most recent call last):\n  File\nValueError: a.jpg: damaged"),
            "a.jpg: damaged",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line(error: Exception, line: str):
    said = one_line(error)
    assert said is not None
    assert said.startswith(line)
    assert "\n" not in said


def test_a_line_stays_readable_however_long_the_message_is():
    said = one_line(ValueError("x" * 10**6))
    assert said is not None
    assert len(said) == LONGEST_MESSAGE + 1


@pytest.mark.parametrize("fault", [KeyError("x"), RuntimeError("x"), AssertionError(), TypeError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(fault: Exception):
    with pytest.raises(type(fault)), ending_well():
        raise fault


def test_an_error_may_stand_for_a_signal(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended, ending_well():
        raise Title("stopped")
    assert ended.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "splattingocc: stopped\n"


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended, ending_well():
        raise KeyboardInterrupt
    assert ended.value.code == INTERRUPTED == 130
    assert capsys.readouterr().err == "splattingocc: interrupted\n"
