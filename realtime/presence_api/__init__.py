"""Presence as clients have it: the operations, diffs to watchers, and the directory of hosts kept true to presence.

Joins the package `presence` with hub and broker. Must never import another feature's store; host profiles come from
the accounts service through `service.Hosts`.
"""
