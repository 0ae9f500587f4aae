"""Values that cannot travel, of which one message tells where they are."""

import multiprocessing
import os
import threading

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


class Model:
    def __init__(self):
        self.lock = threading.Lock()

    def predict(self, x):
        return x


def give(x):
    return {"models": [Model()]}


if __name__ == "__main__":
    model = Model()
    with glasspool.Pool(1, context=CONTEXT) as pool:
        for function in (model.predict, lambda x: model, give):
            try:
                pool.map(function, [1])
            except glasspool.SerializationError as error:
                print("attribute .lock of Model" in str(error))
    try:
        glasspool.Pool(1, len, (model,), context=CONTEXT).terminate()
    except TypeError as error:
        print("argument 1 of initargs, attribute .lock of Model" in str(error))
    else:
        print(True)  # a fork inherits what it starts with
