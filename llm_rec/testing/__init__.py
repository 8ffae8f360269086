"""Conformance suites that run over every member of a union."""
