"""Faults of every kind under a gateway at work, and a verdict that both ends of each request give.

Six fake engines stand behind small TCP proxies. The proxies bring the faults of the network, signals and options those
of the engines, and `ledger` notes every request that reaches a replica, so that what a client saw can be held against
it.
"""
