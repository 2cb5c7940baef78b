"""What all tables belong to. Each module in `TABLE_MODULES` defines tables of `metadata`."""

from __future__ import annotations

import importlib

from sqlalchemy import BigInteger, Column, Double, Integer, MetaData, String, Table, Text

TABLE_MODULES = ("gateway.directory.tables", "gateway.usage.tables", "gateway.office.published")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

Count = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits; what SQLite calls INTEGER has as many, and is the row's own number as a primary key."""

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", Double, nullable=False),
    Column("applied_by", String(64), nullable=False),
)
"""One row for each version that the database has had, by which release; the highest is the present one."""

settings = Table(
    "settings",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What is made once for each database."""


def load_tables() -> MetaData:
    """`metadata` with all tables."""
    for module in TABLE_MODULES:
        importlib.import_module(module)
    return metadata
