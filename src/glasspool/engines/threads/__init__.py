"""The engine of ``ThreadPool``: workers are threads of this process."""
