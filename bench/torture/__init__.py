"""Torture: pools that are hurt at random under a mixed load, and have to account for every task."""
