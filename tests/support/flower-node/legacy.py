"""The same node with Flower's older client."""

import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp


class Node(NumPyClient):
    def fit(self, parameters, config):
        return [values + np.float32(0.125) for values in parameters], 8, {"train_loss": 1.0, "train_acc": 0.5}

    def evaluate(self, parameters, config):
        return 0.5, 8, {"eval_acc": 0.5}


def client(context: Context):
    return Node().to_client()


app = ClientApp(client_fn=client)
