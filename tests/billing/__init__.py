"""Tests of the ledger and the meter, on a real PostgreSQL."""
