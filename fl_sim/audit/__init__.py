"""Audits of finished runs for membership leakage, by attacks with reference models."""
