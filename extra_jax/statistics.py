import numpy as np


def rank_correlation(a, b):
    if len(a) < 3:
        return float("nan")
    r = lambda x: np.argsort(np.argsort(np.round(x, 6), kind="stable"))
    return float(np.corrcoef(r(a), r(b))[0, 1])
