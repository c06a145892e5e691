"""Kills workers and PostgreSQL at random in the middle of charging and paying, and looks for lost or doubled coins."""
