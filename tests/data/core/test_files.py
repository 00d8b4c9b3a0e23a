"""Files are there whole or not at all, whatever writes them."""

from __future__ import annotations

import numpy as np
import pytest

from radpref.data.core.errors import StorageFull
from radpref.data.core.files import save_array, write_atomic


@pytest.mark.parametrize("content", [b"a\n", "a\n", lambda file: file.write(b"a\n")])
def test_bytes_text_and_what_a_function_writes(tmp_path, content):
    write_atomic(tmp_path / "new" / "x", content)
    assert (tmp_path / "new" / "x").read_bytes() == b"a\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]


def test_an_array_comes_back_equal(tmp_path):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    save_array(tmp_path / "x.npy", array)
    assert np.array_equal(np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False), array)


def test_what_breaks_off_leaves_the_older_file_and_no_draft(tmp_path):
    def break_off(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    write_atomic(tmp_path / "x", b"old")
    with pytest.raises(StorageFull):
        write_atomic(tmp_path / "x", break_off)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]
