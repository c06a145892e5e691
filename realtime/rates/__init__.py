"""How much a connection, a user and an action may ask: the table, this node's buckets, and the shared ones."""

from realtime.rates.node import Rates
from realtime.rates.shared import SharedRates
from realtime.rates.table import ACTIONS, Action, Limits, Rate, read_limits

__all__ = ["ACTIONS", "Action", "Limits", "Rate", "Rates", "SharedRates", "read_limits"]
