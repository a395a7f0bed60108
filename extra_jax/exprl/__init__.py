"""ExpRL: mid-training on judge scores of the policy's own rollouts.

collect.py         rollouts out: the `rollout` verb
scored.py          scores in: joined with the rollouts, turned into advantages
batch.py           what one step learns from, and what its sources have in common
stored.py          the groups of a store; `train` with `reward: judge`, on a store that is complete
rounds.py          the `exprl` verb: sample, wait for scores, train, again
loop.py            the training loop of both
distill.py         the self-distillation baseline
drift.py           whether the policy learns to please the judge
"""
