"""Whatever comes as a zip: it is read or refused, within bounds, and nothing else happens."""

import io
import struct
import tempfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.upload import unzip

ENTRIES = {"a/adapter_config.json": b"{}" * 40, "a/README.md": b"words " * 50, "a/x/": b""}


def zipped(entries: dict[str, bytes] = ENTRIES, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """From a real file, which refuses places that bytes in memory let pass."""
    found = {}
    with tempfile.TemporaryFile() as file:
        file.write(data)
        with unzip.opened(file) as archive:
            for name in archive.files:
                target = io.BytesIO()
                archive.copy(name, target)
                found[name] = target.getvalue()
    return found


def test_it_unpacks_a_folder_without_its_name() -> None:
    assert unpack(zipped()) == {
        "adapter_config.json": b"{}" * 40,
        "README.md": b"words " * 50,
    }


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_a_damaged_zip_is_read_or_refused(changes: list[tuple[int, int]], method: int) -> None:
    data = bytearray(zipped(method=method))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        found = unpack(bytes(data))
    except unzip.BadZip as error:
        assert error.user_message and error.fields["files"]
    else:
        assert all(".." not in name.split("/") and not name.startswith("/") for name in found)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(unzip.BadZip):
        unpack(b"PK\x03\x04" + data)


def test_a_list_said_to_be_huge_is_not_read() -> None:
    """zipfile reads the list of files at once, however long the zip says it is."""
    data = bytearray(zipped())
    end = data.index(b"PK\x05\x06")
    filler = b"\0" * 3_000_000
    size = struct.unpack_from("<L", data, end + 12)[0] + len(filler)
    struct.pack_into("<L", data, end + 12, size)
    start = struct.unpack_from("<L", data, end + 16)[0]
    with pytest.raises(unzip.BadZip, match="far too many files"):
        unpack(bytes(data[:start]) + filler + bytes(data[start:]))


@pytest.mark.parametrize("further", [1, 1_000, 1 << 31])
def test_a_list_said_to_begin_elsewhere_is_refused(further: int) -> None:
    """Then every file in the zip begins before the zip does."""
    data = bytearray(zipped())
    end = data.index(b"PK\x05\x06")
    struct.pack_into("<L", data, end + 16, struct.unpack_from("<L", data, end + 16)[0] + further)
    with pytest.raises(unzip.BadZip, match="Make the zip again"):
        unpack(bytes(data))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_ways_of_packing_that_unpack_at_once_are_refused(method: int) -> None:
    with pytest.raises(unzip.BadZip, match="stored or deflated"):
        unpack(zipped(method=method))
