"""Writes dashboards, rules, provisioning and the runbook to `deploy/`."""
