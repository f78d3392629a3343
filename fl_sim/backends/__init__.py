"""Execution backends: this process or Ray workers."""
