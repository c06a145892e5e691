"""Channels (rooms): join, leave, publish, who is there. Messages live in the channel's stream of the broker, not in
PostgreSQL: what must outlive Redis belongs into chat.

Must never import another feature.
"""
