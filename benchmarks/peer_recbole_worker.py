"""Runs in RecBole's environment: trains and evaluates its LightGCN on demand, and reports the time.

It imports nothing of darec. First line on stdin: the configuration as JSON; then `epoch`, `evaluate` or `quit`.
Answers: `ready` once, then the wall and CPU seconds of each request.
"""

import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")


def main() -> None:
    """Answers requests until `quit` or the end of input."""
    from recbole.config import Config  # type: ignore[import-not-found]
    from recbole.data import create_dataset, data_preparation  # type: ignore[import-not-found]
    from recbole.model.general_recommender import LightGCN  # type: ignore[import-not-found]
    from recbole.trainer import Trainer  # type: ignore[import-not-found]

    settings = json.loads(sys.stdin.readline())
    config = Config(model="LightGCN", dataset=settings["dataset"], config_dict=settings)
    train, _, test = data_preparation(config, create_dataset(config))
    model = LightGCN(config, train.dataset).to(config["device"])
    trainer = Trainer(config, model)
    print("ready", flush=True)
    epochs = 0

    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        if line.strip() == "epoch":
            trainer._train_epoch(train, epochs, show_progress=False)
            epochs += 1
        elif line.strip() == "evaluate":
            trainer.evaluate(test, load_best_model=False, show_progress=False)
        else:
            return
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
