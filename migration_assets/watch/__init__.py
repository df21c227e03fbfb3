"""One look at the stream and the cutover, what it means, who is told; and who still reads the legacy."""
