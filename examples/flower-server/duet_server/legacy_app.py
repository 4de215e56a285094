"""The same federation for the older strategies of `flwr.server.strategy` (FitIns, FitRes): arrays have an order and no names.

Put `serverapp = "duet_server.legacy_app:app"` into pyproject.toml. Without initial arrays one of the nodes is asked for them.
"""

from flwr.app import Context
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from .run import initial_arrays, keep


def weighted_mean(results: list) -> dict:
    """Return the mean of each metric over (examples, metrics) of the clients."""
    total = sum(examples for examples, _ in results)
    return {
        name: sum(examples * metrics[name] for examples, metrics in results) / total
        for name in results[0][1]
        if all(isinstance(metrics.get(name), (int, float)) for _, metrics in results)
    }


def components(context: Context) -> ServerAppComponents:
    config = context.run_config
    arrays = initial_arrays(config)
    nodes, done = int(config["min-nodes"]), int(config["rounds-done"])

    def round_config(server_round: int) -> dict:
        return {"server-round": done + server_round}

    def after_round(server_round: int, values: list, _) -> None:
        names = list(arrays) or [str(index) for index in range(len(values))]
        keep(config, done + server_round, dict(zip(names, values, strict=True)))

    strategy = FedAvg(
        fraction_fit=float(config["fraction-train"]),
        fraction_evaluate=float(config["fraction-evaluate"]),
        min_fit_clients=nodes,
        min_evaluate_clients=nodes,
        min_available_clients=nodes,
        on_fit_config_fn=round_config,
        on_evaluate_config_fn=round_config,
        fit_metrics_aggregation_fn=weighted_mean,
        evaluate_metrics_aggregation_fn=weighted_mean,
        evaluate_fn=after_round,
        initial_parameters=ndarrays_to_parameters(list(arrays.values())) if arrays else None,
    )
    settings = ServerConfig(num_rounds=int(config["rounds"]), round_timeout=float(config["round-timeout"]))
    return ServerAppComponents(strategy=strategy, config=settings)


app = ServerApp(server_fn=components)
