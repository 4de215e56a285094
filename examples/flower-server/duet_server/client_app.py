"""Flower wants a ClientApp in every app. Here clients are `duet client` processes, which never load it."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
@app.evaluate()
def refuse(message: Message, context: Context) -> Message:
    raise NotImplementedError("This federation is trained by `duet client` processes, not by a Python SuperNode")
