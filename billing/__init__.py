"""The ledger and the meter: wallets, transfers, tariffs, charges, receipts, audit.

Imports neither presence nor realtime.
"""
