"""Two stock pools in one program, of one and of two workers, all at work."""

import multiprocessing

import staging


def main() -> None:
    context = multiprocessing.get_context(staging.begin())
    one, two = context.Pool(1, staging.set_up), context.Pool(2)
    one.apply_async(staging.work, (1,))
    two.map_async(staging.work, [2, 3], 1)
    staging.rest()


if __name__ == "__main__":
    main()
