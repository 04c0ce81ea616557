"""What the first layer reads: tokens, or feature vectors.

For tokens the input product x W + b is a look-up: with P = embedding W + b, a table of V rows,
token n adds row n of P. The table costs V products instead of T B; backward is a segment sum into
dP, then the same two small products. Only where the vocabulary is larger than the number of tokens
at hand is the table of an embedding not worth its price, and the embedding's rows are the vectors.
"""

from __future__ import annotations

from ..backends import Array, LayerGradients, LayerInput, Ops
from ..cifg import Parameters, layer_input


def token_table(ops: Ops, parameters: Parameters) -> Array:
    """P = embedding W + b (V, 3H): what the first layer makes of each token."""
    W, b = parameters["cifg.0.W"], parameters["cifg.0.b"]
    embedding = parameters.get("embedding.weight")
    return W + b if embedding is None else ops.matmul(embedding, W) + b


def token_input(ops: Ops, ids: Array, parameters: Parameters) -> LayerInput:
    """The first layer's input for token ids (T, B)."""
    T, B = ids.shape
    embedding = parameters.get("embedding.weight")
    if embedding is None or embedding.shape[0] <= T * B:
        return LayerInput(token_table(ops, parameters), ids)
    rows = ops.gather_rows(embedding, ops.xp.reshape(ids, (T * B,)))
    return layer_input(ops.xp.reshape(rows, (T, B, embedding.shape[1])), parameters)


def input_backward(
    ops: Ops, layer: LayerGradients, ids: Array | None, parameters: Parameters, gradients: Parameters
) -> None:
    """Back through the first layer's input: gradients of W, b and the embedding.

    `layer` holds those of what the layer read, `ids` (T, B) the tokens; None for feature vectors.
    """
    dW, db = gradients["cifg.0.W"], gradients["cifg.0.b"]
    db[...] = ops.xp.sum(layer.table, axis=0)  # each token added b to one row
    embedding = parameters.get("embedding.weight")
    if embedding is None:
        if ids is not None:
            dW[...] = layer.table
    elif layer.x is None:
        ops.matmul(embedding.T, layer.table, out=dW)
        ops.matmul(layer.table, parameters["cifg.0.W"].T, out=gradients["embedding.weight"])
    else:
        d_embedding = gradients["embedding.weight"]
        d_embedding[...] = 0
        rows = ops.xp.reshape(layer.x, (-1, d_embedding.shape[1]))
        ops.scatter_add_rows(d_embedding, ops.xp.reshape(ids, (-1,)), rows)
