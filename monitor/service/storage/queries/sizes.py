"""How much of a store holds something. A SQLite file tells; of a database server it is estimated, run by run."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from monitor.service.storage.tables.schema import curve_values, items, totals

# Of a row with its entries in the indexes, without the run's id, which is in each of them; an item takes a tenth more
# than its bytes. Measured with PostgreSQL over runs of 2 to 2000 groups, whose tables took a tenth more or less.
_ITEM_ROW, _TOTALS_ROW, _VALUE_ROW = 320, 275, 235
_ITEM_KEYS, _INDEX_KEYS = 4, 2
# Of a registration.
_RUN = 10_000


def pages(connection: Connection) -> tuple[int, int]:
    """Return how many bytes of a SQLite file hold something, and how many it has. What was freed is used again."""
    count, free, size = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (count - free) * size, count * size


def of_run(connection: Connection, run_id: str) -> int:
    """Return about how many bytes a run takes in PostgreSQL, with its index."""
    item_bytes = func.coalesce(func.sum(func.pg_column_size(items.c.item)), 0)
    number, size = connection.execute(select(func.count(), item_bytes).where(items.c.run_id == run_id)).one()
    of_totals, of_values = (
        connection.execute(select(func.count()).select_from(table).where(table.c.run_id == run_id)).scalar_one()
        for table in (totals, curve_values)
    )
    rows = number * _ITEM_ROW + of_totals * _TOTALS_ROW + of_values * _VALUE_ROW
    keys = (number * _ITEM_KEYS + (of_totals + of_values) * _INDEX_KEYS) * len(run_id.encode())
    return int(_RUN + rows + keys + int(size) * 11 // 10)
