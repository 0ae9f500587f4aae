"""Where workers live: one package or module per engine."""
