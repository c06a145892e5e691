"""Load tests: scenarios that drive real server processes from outside."""
