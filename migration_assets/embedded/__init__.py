"""Two private PostgreSQL servers with a realistic legacy, for the demo and the tests; never for real data."""
