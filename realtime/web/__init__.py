"""HTTP beside the socket: health, metrics, the demo's files, and development tokens."""
