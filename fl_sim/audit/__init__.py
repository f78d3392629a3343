"""Audits of finished runs: who leaks what, and how sure is that?"""
