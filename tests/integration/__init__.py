"""Whole servers as processes, real clients, real engines."""
