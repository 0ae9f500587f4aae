"""Search the best settings of a scikit-learn model on glasspool's workers, through joblib.

It needs scikit-learn: ``pip install 'glasspool[joblib]' scikit-learn``::

    python examples/grid_search.py
"""

import threading

import joblib
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import glasspool


def look(seen: list[glasspool.Snapshot], search_is_over: threading.Event) -> None:
    """Take pictures of the workers while the search runs."""
    while not search_is_over.wait(0.02):
        seen.append(glasspool.inspect())


def main() -> None:
    """Search, and show what the workers did meanwhile."""
    glasspool.register_joblib()
    data, digits = load_digits(return_X_y=True)
    search = GridSearchCV(SVC(), {"C": [1, 10], "gamma": [0.0005, 0.001]}, cv=3, n_jobs=2)

    seen: list[glasspool.Snapshot] = []
    search_is_over = threading.Event()
    with joblib.parallel_config(backend="glasspool"):
        search.fit(data[:600], digits[:600])  # the workers start, and stay for the next call
        watcher = threading.Thread(target=look, args=(seen, search_is_over))
        watcher.start()
        search.fit(data[:900], digits[:900])
        search_is_over.set()
        watcher.join()

    print(f"best: {search.best_params_}, {search.best_score_:.3f} of the digits are read rightly")
    functions = {task.function for picture in seen for task in picture.tasks}
    print("the workers ran:", *sorted(functions))
    limits = {
        f"{library} {threads}"
        for picture in seen
        for worker in picture.workers
        for library, threads in (worker.native_threads or {}).items()
    }
    print("native threads in each worker:", ", ".join(sorted(limits)))


if __name__ == "__main__":
    main()
