"""Renderings of snapshots. They read frozen values and never touch a process."""
