"""placeholder"""
from __future__ import annotations
def answer(engine, question): return {}
