"""ExpRL: mid-training on judge scores of the policy's own rollouts.

collect.py    rollouts out: the `rollout` verb
scored.py     scores in: joined with the rollouts, turned into advantages
offline.py    `train` with `reward: judge`, on a store that is complete
rounds.py     the `exprl` verb: sample, wait for scores, train, again
distill.py    the self-distillation baseline
"""
