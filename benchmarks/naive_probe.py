"""One probe the ordinary way: nn.Linear, torch.optim.Adam and a DataLoader.

What `evar.probing.probe` is measured against (benchmarks/linear.py) and checked against (tests).
"""

import copy

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset


def fit(x, y, train, valid, test, *, lr, seed, epochs=200, patience=20, batch_size=200):
    """Train on rows `train`, stop by rows `valid`, return the score of rows `test`.

    x float32 (N, D); y int (N,) or 0/1 (N, C). `valid=None` holds out a random tenth.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scaler = StandardScaler().fit(x[train])
    batch = min(batch_size, len(train))
    if valid is None:
        present = set(np.unique(y[train]))
        while True:
            order = rng.permutation(train)
            valid, kept = (
                order[: int(np.ceil(len(order) / 10))],
                order[int(np.ceil(len(order) / 10)) :],
            )
            if set(np.unique(y[valid])) == present:
                train = kept
                break
    single = y.ndim == 1
    classes = int(y.max()) + 1 if single else y.shape[1]

    def tensors(rows):
        target = (
            np.eye(classes, dtype=np.float32)[y[rows]] if single else y[rows].astype(np.float32)
        )
        scaled = scaler.transform(x[rows]).astype(np.float32)
        return TensorDataset(torch.from_numpy(scaled), torch.from_numpy(target))

    loader = DataLoader(tensors(train), batch_size=batch, shuffle=True)
    model = torch.nn.Linear(x.shape[1], classes)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-8)

    def score(data) -> float:
        with torch.no_grad():
            out = torch.sigmoid(
                torch.cat([model(xb) for xb, _ in DataLoader(data, batch_size=batch)])
            ).numpy()
        truth = data.tensors[1].numpy()
        if single:
            return float((out.argmax(1) == truth.argmax(1)).mean())
        return float(average_precision_score(truth, out, average=None).mean())

    held, best, wait, kept = tensors(valid), -1.0, 0, None
    for _ in range(epochs):
        for xb, yb in loader:
            out = model(xb)
            if single:
                loss = -(yb * torch.log_softmax(out, dim=1)).mean()
            else:
                loss = torch.nn.functional.binary_cross_entropy(torch.sigmoid(out), yb)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        value = score(held)
        if value >= best:
            best, wait, kept = value, 1, copy.deepcopy(model.state_dict())
        elif wait >= patience:
            break
        else:
            wait += 1
    model.load_state_dict(kept)
    return score(tensors(test))
