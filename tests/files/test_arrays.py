import io
import os
import struct
import zipfile

import numpy as np
import pytest

from splattingocc.files import BadFile, read_array, read_arrays, read_only_array
from splattingocc.files.arrays import names_of_arrays


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "text": np.array("abc"), "f": np.asfortranarray(np.eye(3)[:2])}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_arrays(tmp_path / "x.npz", ["f", "a", "missing", "text"])
    assert list(found) == ["f", "a", "text"]
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])
    np.save(tmp_path / "y.npy", arrays["a"])
    np.testing.assert_array_equal(read_array(tmp_path / "y.npy"), arrays["a"])
    np.savez(tmp_path / "one.npz", whatever=arrays["a"])
    np.testing.assert_array_equal(read_only_array(tmp_path / "one.npz"), arrays["a"])
    with pytest.raises(BadFile, match="holds 3 arrays"):
        read_only_array(tmp_path / "x.npz")


def npy_header(shape: str, descr: str = "|u1") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (npy_header("(200000, 200000, 16)"), "640,000,000,000 bytes"),
        (npy_header("(-1, 5)") + bytes(9), "declares"),
        (npy_header("(99999999999999999999999,)"), "declares"),
        (npy_header("(10,)") + bytes(9), "holds 9 bytes"),
        (npy_header("(10,)") + bytes(11), "or more"),
        (npy_header("(1,)", "|O") + b"cos\nsystem\n", "never loaded"),
        (npy_header("(" * 3000), "not a .npy array"),
        (b"", "not a .npy array"),
        (b"PK\x03\x04", "not a .npy array"),
    ],
)
def test_what_an_array_declares_is_checked_before_it_is_believed(tmp_path, content, complaint):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=complaint):
        read_array(path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(BadFile, match=r"a\.npz: "):
        read_arrays(tmp_path / "a.npz", ["x"])


def test_any_flipped_bit_of_an_archive_is_noticed_or_harmless(tmp_path):
    array = np.random.default_rng(0).integers(0, 18, (20, 20, 16)).astype(np.uint8)
    whole = io.BytesIO()
    np.savez_compressed(whole, semantics=array)
    path, rng, noticed = tmp_path / "a.npz", np.random.default_rng(1), 0
    for _ in range(600):
        content = bytearray(whole.getvalue())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            found = read_arrays(path, ["semantics"])
        except BadFile:
            noticed += 1
        else:
            assert not found or np.array_equal(found["semantics"], array)
    assert noticed > 500


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99), (10, 12), (10, 14)])
def test_encrypted_and_oddly_compressed_members_are_refused_in_one_line(tmp_path, offset, value):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.find(b"PK\x01\x02") + offset] = value
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadFile, match=r"a\.npz: not an .npz archive"):
        read_arrays(tmp_path / "a.npz", ["x"])


def test_a_bomb_is_not_blown_up(tmp_path):
    """A member that says it is small and inflates without end."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header("(1000,)") + bytes(300_000_000))
    before = os.times().user
    with pytest.raises(BadFile, match="or more"):
        read_arrays(path, ["x"])
    assert os.times().user - before < 5


def test_a_member_that_is_no_array_has_no_name_as_one(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pred", b"not an array")
    assert names_of_arrays(path) == []
