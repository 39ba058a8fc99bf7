"""What tells stores apart, so that monitoring knows which services are a pair: they have one store."""

from __future__ import annotations

import hashlib
import logging

from sqlalchemy.exc import SQLAlchemyError

from monitor.service.storage.opening import file_of, first_line, waiting_engine

logger = logging.getLogger(__name__)

# Not the URL: two machines may each have a database of that name on a host of that name.
_OF_SCHEMA = """
    SELECT system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()), current_schema()
    FROM pg_control_system()
"""


def store_identity(url: str) -> str | None:
    """Return twelve hexadecimal digits, the same wherever the store is asked for them, also after a failover.

    Returns:
        None of a store in a file, which no other service can have, and where the database does not say what it is.
    """
    if file_of(url) is not None:
        return None
    engine = waiting_engine(url)
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(_OF_SCHEMA).one()
    except SQLAlchemyError as error:
        logger.warning(
            "the database does not say which one it is (%s): ServiceDown is critical also where another service of "
            "its store goes on",
            first_line(error),
        )
        return None
    finally:
        engine.dispose()
    return hashlib.sha256(repr(tuple(found)).encode()).hexdigest()[:12]
