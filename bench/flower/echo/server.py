"""Rounds of FedAvg over all nodes; prints when each of them began."""
import json
import time

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg that remembers when its rounds begin."""

    def __init__(self, **options):
        super().__init__(**options)
        self.began = []

    def configure_train(self, *args, **kwargs):
        self.began.append(time.time())
        return super().configure_train(*args, **kwargs)


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    agents = int(config["agents"])
    strategy = TimedFedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=agents,
        min_evaluate_nodes=0,
        min_available_nodes=agents,
    )
    weights = [np.zeros(int(config["size-mb"] * 1_000_000 / 4), np.float32), np.zeros(8, np.float32)]
    strategy.start(
        grid=grid, initial_arrays=ArrayRecord(weights), num_rounds=int(config["num-server-rounds"])
    )
    print("TIMES " + json.dumps([*strategy.began, time.time()]), flush=True)
