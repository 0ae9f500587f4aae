"""Uses a package that makes its pool while it is imported."""

import pool_at_import

if __name__ == "__main__":
    print(pool_at_import.run())
    pool_at_import.pool.terminate()
