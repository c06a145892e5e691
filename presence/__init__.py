"""Who is here and who can be rung: states (pure), tracker, directory of hosts, visibility (pure), diffs (pure).

Must never import `realtime` or `billing`: a Redis client and callbacks are handed in, values and events come out.
"""
