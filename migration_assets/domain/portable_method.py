"""The fingerprint that PostgreSQL and DuckDB compute alike: what both must do, to the byte. Pure.

A row becomes one UTF-8 text, column after column, in the order of the archive:

- INTEGER, DECIMAL, BOOLEAN (`t`, `f`), UUID: the value's text; FLOAT, DATE, TIMESTAMP, TIMESTAMPTZ: the bytes that
  PostgreSQL sends, as hexadecimal digits, so that -0 and the infinities are exact, and NaN is one value whatever its
  bits are. Then a comma. NULL is the comma
  alone; no such text is empty or holds a comma.
- TEXT, JSON, LIST: length in bytes, a colon, PostgreSQL's text. NULL is the colon alone.
- BYTES: length, a colon, the MD5 of the bytes: their digits would take twice the room, which PostgreSQL's limit of 1 GB
  for a text leaves only to half of all values. NULL is the colon alone.

So every text can be read back in one way only: no value can move from a column to its neighbour unseen. The row's hash
is the MD5 of that text; the sums are those of its first and of its last 15 hexadecimal digits, as integers.
"""

PORTABLE_METHOD = "portable-v1"
"""Name of the method; a manifest keeps fingerprints for years, so that whoever changes the method changes the name."""
