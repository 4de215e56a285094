"""A stock Python node of the tests: adds a constant to every array."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    moved = {name: Array(array.numpy() + np.float32(0.125)) for name, array in message.content["arrays"].items()}
    metrics = MetricRecord({"num-examples": 8, "train_loss": 1.0, "train_acc": 0.5})
    return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    accuracies = {f"eval_acc{mode}": 0.5 for mode in ("", "_gated", "_local", "_shared")}
    metrics = MetricRecord({"num-examples": 8, "eval_loss": 0.5, **accuracies})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
