"""One asset a file; names are nouns, check names are statements that can be false."""
