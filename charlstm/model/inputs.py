"""The first layer's input product, x W + b, for tokens and for feature vectors.

For tokens the product is a look-up: with P = embedding W + b, a table of V rows, row n of wx is
P[token n]. The table costs V products instead of T B; backward is a segment sum into dP, then the
same two small products. Only where the vocabulary is larger than the number of tokens at hand is
the table not worth its price, and the rows are gathered first.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..backends import Array, Ops

Parameters = Mapping[str, Array]


def token_table(ops: Ops, parameters: Parameters) -> Array:
    """P = embedding W + b (V, 3H): what the first layer makes of each token."""
    W, b = parameters["cifg.0.W"], parameters["cifg.0.b"]
    embedding = parameters.get("embedding.weight")
    return W + b if embedding is None else ops.matmul(embedding, W) + b


def project_tokens(ops: Ops, ids: Array, parameters: Parameters) -> Array:
    """wx (N, 3H) of token ids (N,)."""
    W, b = parameters["cifg.0.W"], parameters["cifg.0.b"]
    embedding = parameters.get("embedding.weight")
    table = W if embedding is None else embedding
    if _table_pays(ids, table):
        return ops.gather_rows(token_table(ops, parameters), ids)
    rows = ops.gather_rows(table, ids)
    return rows + b if embedding is None else ops.matmul(rows, W) + b


def project_tokens_backward(
    ops: Ops, dwx: Array, ids: Array, parameters: Parameters, gradients: Parameters
) -> None:
    """Back through `project_tokens` from dwx (N, 3H): gradients of W, b and the embedding."""
    W, dW, db = parameters["cifg.0.W"], gradients["cifg.0.W"], gradients["cifg.0.b"]
    embedding = parameters.get("embedding.weight")
    if embedding is None:
        dW[...] = 0
        ops.scatter_add_rows(dW, ids, dwx)
        # every token adds to one row of dW, so its rows sum to db; worth it for few rows only
        db[...] = ops.xp.sum(dW if _table_pays(ids, W) else dwx, axis=0)
        return
    d_embedding = gradients["embedding.weight"]
    if _table_pays(ids, embedding):
        dP = ops.zeros((embedding.shape[0], dwx.shape[1]), dwx.dtype)
        ops.scatter_add_rows(dP, ids, dwx)
        ops.matmul(embedding.T, dP, out=dW)
        db[...] = ops.xp.sum(dP, axis=0)
        ops.matmul(dP, W.T, out=d_embedding)
        return
    ops.matmul(ops.gather_rows(embedding, ids).T, dwx, out=dW)
    db[...] = ops.xp.sum(dwx, axis=0)
    d_embedding[...] = 0
    ops.scatter_add_rows(d_embedding, ids, ops.matmul(dwx, W.T))


def project_features(ops: Ops, x: Array, parameters: Parameters) -> Array:
    """wx (N, 3H) of feature vectors x (N, D)."""
    return ops.matmul(x, parameters["cifg.0.W"]) + parameters["cifg.0.b"]


def project_features_backward(
    ops: Ops, dwx: Array, x: Array, parameters: Parameters, gradients: Parameters
) -> Array:
    """Back through `project_features`: gradients of W and b, and dx (N, D)."""
    ops.matmul(x.T, dwx, out=gradients["cifg.0.W"])
    gradients["cifg.0.b"][...] = ops.xp.sum(dwx, axis=0)
    return ops.matmul(dwx, parameters["cifg.0.W"].T)


def _table_pays(ids: Array, table: Array) -> bool:
    return bool(table.shape[0] <= ids.shape[0])
