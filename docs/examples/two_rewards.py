"""Two rewards with weights: one compares the completions of a problem, the other asks something slow, asynchronously.

extra-jax train configs/quickstart.yaml "reward.functions=[auto,
  {function: docs/examples/two_rewards.py:rarity, weight: 0.1},
  {function: docs/examples/two_rewards.py:politeness, weight: 0.05, args: {word: please}}]"
"""

import asyncio
from collections import Counter

from extra_jax.reward.door import completion_text, reward


@reward(name="rare")
def rarity(completions, uid):
    """1 for what no other completion of the same problem says, 1/2 for what two say, and so on."""
    said = list(zip(uid, map(completion_text, completions), strict=True))
    times = Counter(said)
    return [1 / times[pair] for pair in said]


async def politeness(completions, word):
    """Asks about all completions at once, as one would ask a server."""
    return await asyncio.gather(*(ask(completion_text(completion), word) for completion in completions))


async def ask(text, word):
    await asyncio.sleep(0)  # here the server would answer
    return 1.0 if word in text else 0.0
