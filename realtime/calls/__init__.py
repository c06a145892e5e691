"""Calls: who rings whom, who answered, when media flowed, and how each call ended, exactly once."""
