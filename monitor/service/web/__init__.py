"""The service over HTTP: metrics and health, /api, the read interface /api/v1, and the pages; browsers log in here."""
