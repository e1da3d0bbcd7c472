"""PostgreSQL: connections, values, the embedded server."""
