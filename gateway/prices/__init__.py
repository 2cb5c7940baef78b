"""What models cost: a table that is part of the release, and what a configuration says otherwise."""

from gateway.prices.table import LongContext, Price, PriceTable, Table, cost, shipped

__all__ = ["LongContext", "Price", "PriceTable", "Table", "cost", "shipped"]
