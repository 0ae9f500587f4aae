"""A pool in an attribute of the object whose method it runs."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


class Service:
    def __init__(self):
        self.pool = glasspool.Pool(1, context=CONTEXT)

    def work(self, x):
        return x + 1

    def run(self):
        return self.pool.map(self.work, range(3))


class Careful(Service):
    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "pool"}


if __name__ == "__main__":
    careful, service = Careful(), Service()
    print(careful.run())
    try:
        service.run()
    except Exception as error:
        print(
            "attribute .pool of Service"
            in "\n".join([str(error), *getattr(error, "__notes__", [])])
        )
    for one in (careful, service):
        one.pool.terminate()
