"""Pools whose workers live on the nodes of a cluster: what Ray and Dask have in common.

The driver (the program that made the pool) has the ledger; each node has one *agent*, a local pool that
gets tasks in batches and gives their ends back. ``link`` says what a library of clusters does for that.
"""
