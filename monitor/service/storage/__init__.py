"""The store: every item that was acknowledged, in SQLite or PostgreSQL.

Its tables, the queries over them, the file of a SQLite store; `Store` has all of it in transactions.
"""
