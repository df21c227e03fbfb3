"""The story that `make demo` tells, on servers of its own."""
