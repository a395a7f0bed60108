"""Dense rewards from a judge: rubrics, segments, score files, the client of the endpoint, calibration, advantages.

Nothing here imports jax, so that ``extra-jax judge`` and ``extra-jax calibrate`` run on a machine that has none.
"""
