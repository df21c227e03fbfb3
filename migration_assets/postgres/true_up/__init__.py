"""Row-level differences between the legacy's snapshot and a leaf, and their application to the leaf.

Rows are put into buckets by a hash of their key, and a fingerprint is taken of every bucket, in one pass over each
side. Where all agree, that was all. Only the rows of differing buckets are then compared one by one, as key and hash,
in batches of bounded size; whole rows travel only where they differ.
"""
