"""The page and the API of ``glasspool serve``: fed by a watch, never by a pool."""
