"""Benchmarks: glasspool beside other pools, in one run. ``python -m bench --help`` says how.

They are no tests: nothing here asserts a time.
"""
