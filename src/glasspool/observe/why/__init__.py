"""Why a running program does not get on: a series of sights of it, judged."""
