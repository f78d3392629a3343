"""Countermeasures of a trainer against protections. One method, one file."""
