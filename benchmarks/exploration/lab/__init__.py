"""The laboratory: controls, other metrics, probes and arms of the experiment plan. It uses the public doors only.

explore:
  bonus: {"benchmarks/exploration/lab/controls.py:control": {control: permute_within}}
"""
