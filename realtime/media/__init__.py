"""Media: credentials for voice and video that flow past this server, not through it."""
