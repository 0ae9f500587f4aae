"""What a machine and a container allow, found out by trying: one module for each group of questions.

Nothing outside the machine is reached, nothing is left behind, and no process but our own children is
touched in any way.
"""
