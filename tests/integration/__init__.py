"""Tests of the service, its pages and its database with a real PostgreSQL."""
