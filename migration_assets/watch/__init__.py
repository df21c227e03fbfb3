"""The watch: looks at the stream and the cutover, judges them, sends alerts, and finds readers of the legacy."""
