"""The base's partitions: creating root, quarters and leaves, opening them ahead, fencing and checking them."""
