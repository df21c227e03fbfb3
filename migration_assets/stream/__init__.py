"""The change stream: one publication, slot and subscription for the whole migration, from first join to cutover."""
