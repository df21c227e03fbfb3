"""One week from the legacy into its leaf: loaded, proven, put into its place, written down."""
