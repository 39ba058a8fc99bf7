"""Tests of monitor/service/access."""
