"""The ServerApp: Flower's own FedAvg (Message API) from the initial arrays of the model."""

from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .run import initial_arrays, keep

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    arrays = initial_arrays(config)
    if not arrays:
        raise ValueError("Expected initial arrays: write this app with `duet export-flower-app`, or give initial-arrays")
    nodes, done = int(config["min-nodes"]), int(config["rounds-done"])
    strategy = FedAvg(
        fraction_train=float(config["fraction-train"]),
        fraction_evaluate=float(config["fraction-evaluate"]),
        min_train_nodes=nodes,
        min_evaluate_nodes=nodes,
        min_available_nodes=nodes,
    )

    def after_round(server_round: int, record: ArrayRecord) -> None:
        keep(config, done + server_round, {name: array.numpy() for name, array in record.items()})

    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(values) for name, values in arrays.items()}),
        num_rounds=int(config["rounds"]),
        timeout=float(config["round-timeout"]),
        train_config=ConfigRecord({"rounds-done": done}),
        evaluate_config=ConfigRecord({"rounds-done": done}),
        evaluate_fn=after_round,
    )
