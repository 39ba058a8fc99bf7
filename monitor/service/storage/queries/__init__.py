"""What is read from the tables, and what is taken out of them: each within a transaction that the caller has begun."""
