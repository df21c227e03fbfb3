"""Two private PostgreSQL clusters with a realistic legacy, for the demo and the tests; never used on real data."""
