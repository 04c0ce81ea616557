"""What the first layer reads: tokens, or feature vectors.

For tokens the input product x W + b is a look-up: with P = embedding W + b, a table of V rows,
token n adds row n of P. The table costs V products instead of T B; backward is a segment sum into
dP, then the same two small products. Only where the vocabulary is larger than the number of tokens
at hand is the table of an embedding not worth its price, and where units of the vectors are dropped
it does not exist: there the embedding's rows are the vectors.
"""

from __future__ import annotations

from ..backends import Array, LayerGradients, LayerInput, Ops
from ..cifg import Parameters, layer_input
from .regularization import NOTHING_DROPPED, Masks


def token_table(ops: Ops, parameters: Parameters, mask: Array | None = None) -> Array:
    """P = embedding W + b (V, 3H): what the first layer makes of each token.

    mask (V, 1) holds factors of the embedding's rows, or without an embedding of W's.
    """
    W, b = parameters["cifg.0.W"], parameters["cifg.0.b"]
    embedding = parameters.get("embedding.weight")
    if embedding is None:
        return _times(ops, W, mask) + b
    return ops.matmul(_times(ops, embedding, mask), W) + b


def token_input(ops: Ops, ids: Array, parameters: Parameters, masks: Masks = NOTHING_DROPPED) -> LayerInput:
    """The first layer's input for token ids (T, B)."""
    T, B = ids.shape
    embedding = parameters.get("embedding.weight")
    if embedding is None or (embedding.shape[0] <= T * B and masks.input is None):
        return LayerInput(token_table(ops, parameters, masks.embedding), ids)
    rows = _times_rows(ops, ops.gather_rows(embedding, ops.xp.reshape(ids, (T * B,))), ids, masks.embedding)
    return vector_input(ops, ops.xp.reshape(rows, (T, B, embedding.shape[1])), parameters, masks)


def vector_input(ops: Ops, x: Array, parameters: Parameters, masks: Masks = NOTHING_DROPPED) -> LayerInput:
    """The first layer's input for vectors x (T, B, D)."""
    return layer_input(_times(ops, x, masks.input), parameters)


def input_backward(
    ops: Ops,
    layer: LayerGradients,
    ids: Array | None,
    parameters: Parameters,
    gradients: Parameters,
    masks: Masks = NOTHING_DROPPED,
) -> Array | None:
    """Back through the first layer's input: gradients of W, b and the embedding; returns those of vectors.

    `layer` holds those of what the layer read, `ids` (T, B) the tokens; None for feature vectors. A tied
    embedding's gradient already holds what the head has written, and is added to.
    """
    dW, db = gradients["cifg.0.W"], gradients["cifg.0.b"]
    db[...] = ops.xp.sum(layer.table, axis=0)  # each token added b to one row
    embedding = parameters.get("embedding.weight")
    dx = (
        layer.x if layer.x is None or masks.input is None else ops.multiply(layer.x, masks.input, out=layer.x)
    )
    if embedding is None:
        if ids is not None:
            dW[...] = layer.table
            _times(ops, dW, masks.embedding, out=dW)
        return dx
    d_embedding, tied = gradients["embedding.weight"], "head.weight" not in parameters
    if dx is None:
        ops.matmul(_times(ops, embedding, masks.embedding).T, layer.table, out=dW)
        d_rows = ops.matmul(layer.table, parameters["cifg.0.W"].T, out=None if tied else d_embedding)
        _times(ops, d_rows, masks.embedding, out=d_rows)
        if tied:
            d_embedding += d_rows
        return None
    if not tied:
        d_embedding[...] = 0
    rows = ops.xp.reshape(dx, (-1, d_embedding.shape[1]))
    rows = _times_rows(ops, rows, ids, masks.embedding)
    ops.scatter_add_rows(d_embedding, ops.xp.reshape(ids, (-1,)), rows)
    return None


def _times(ops: Ops, x: Array, mask: Array | None, out: Array | None = None) -> Array:
    return x if mask is None else ops.multiply(x, mask, out)


def _times_rows(ops: Ops, rows: Array, ids: Array, mask: Array | None) -> Array:
    """Rows (T * B, E) of the embedding, times the factors (V, 1) of their words."""
    if mask is None:
        return rows
    return ops.multiply(rows, ops.gather_rows(mask, ops.xp.reshape(ids, (-1,))), out=rows)
