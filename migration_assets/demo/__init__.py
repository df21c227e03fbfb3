"""The demo: a complete migration of a made-up legacy on embedded servers, as `make demo` runs it."""
