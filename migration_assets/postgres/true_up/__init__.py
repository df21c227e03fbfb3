"""Row-level differences between the legacy's snapshot and a leaf, and their application to the leaf.

Rows are put into buckets by a hash of their key, and a fingerprint is taken of every bucket, in one pass over each
side. Where all agree, that was all. Only the rows of differing buckets are then compared one by one, as key and hash,
in one more pass over each side and batches of bounded size. Whole rows travel where they differ, by their keys; where
a large share does, all rows of the slice travel again by one COPY, which costs less.
"""
