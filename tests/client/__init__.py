"""Tests of both client libraries: one contract suite for all of them, and what only a misbehaving peer can show."""
