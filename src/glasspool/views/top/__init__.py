"""``glasspool top``: pools in the terminal, as ``htop`` shows processes.

``session`` keeps what successive views of a watch tell, ``model`` makes rows of it, ``grid`` lays rows out in
columns: all three are pure. ``plain`` prints them once; ``app``, ``screens`` and ``listing`` show them with
Textual, which is imported nowhere else.
"""
