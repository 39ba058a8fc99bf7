"""What is read from the tables, and what is changed in them: each within a transaction that the caller has begun."""
