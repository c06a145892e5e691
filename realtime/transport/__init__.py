"""Sockets: handshake, frames, the connection with its bounded outbox, timers, admission, and the server around them.

Must never import features, stores or the dispatch table: a `SocketHandler` is handed in by the composition root.
"""
