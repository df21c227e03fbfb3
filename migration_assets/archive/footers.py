"""The last bytes of a Parquet file: its footer says where each column's values lie, how many, and between which bounds.

Another file, or one that was written anew, has another footer, even of the same size: its digest is read in one go,
where a digest of all bytes would take as long as the file is large.
"""

import hashlib

import pyarrow as pa

MAGIC = b"PAR1"
_TAIL = 8  # four bytes of length, four of magic


def footer_in(end: bytes) -> bytes:
    """The footer with its length and magic, out of the last bytes of a file.

    Raises:
        ValueError: They do not end as a Parquet file does, or do not reach back to where the footer begins.
    """
    if end[-len(MAGIC) :] != MAGIC:
        raise ValueError("it does not end as a Parquet file does")
    size = int.from_bytes(end[-_TAIL : -len(MAGIC)], "little") + _TAIL
    if size > len(end):
        raise ValueError("its footer is said to be longer than what there is")
    return end[-size:]


def read_footer(file: pa.NativeFile, size: int) -> bytes:
    """Of an open file of so many bytes, with its length and magic.

    Raises:
        ValueError: It has no footer.
        OSError: It cannot be read.
    """
    if size < _TAIL:
        raise ValueError("it is too short for a footer")
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    length = min(int.from_bytes(tail[: -len(MAGIC)], "little") + _TAIL, size)
    file.seek(size - length)
    return footer_in(file.read(length))


def footer_sha256(file: pa.NativeFile, size: int) -> str:
    """Of an open file of so many bytes, hexadecimal.

    Raises:
        ValueError: It has no footer.
        OSError: It cannot be read.
    """
    return hashlib.sha256(read_footer(file, size)).hexdigest()
