"""The local engine: worker processes of this machine, each with a private channel."""
