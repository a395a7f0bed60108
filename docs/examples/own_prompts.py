"""An own prompt policy: a curriculum that prefers problems whose last pass rate was near one half.

extra-jax train configs/quickstart.yaml 'explore.prompts={"docs/examples/own_prompts.py:curriculum": {"look_ahead": 3}}'
"""

from extra_jax.exploration import PromptRequest
from extra_jax.explore import PromptPolicy


def curriculum(target: float = 0.5, look_ahead: int = 2) -> PromptPolicy:
    """Looks at ``look_ahead`` times as many problems as a step needs; those that are not taken wait."""

    def prompts(draw, state, step):
        waiting = [PromptRequest(step.run.problems[uid]) for uid in state["waiting"]]
        candidates = waiting + draw(max(look_ahead * step.count - len(waiting), step.count))
        distance = [abs(state["rates"].get(request.problem.uid, target) - target) for request in candidates]
        order = sorted(range(len(candidates)), key=lambda i: (distance[i], i))
        kept = sorted(order[step.count :])
        state = {**state, "waiting": [candidates[i].problem.uid for i in kept]}
        return [candidates[i] for i in sorted(order[: step.count])], state

    def observe(step, state):
        rates = dict(zip(step.uids, step.correct.mean(axis=1).tolist(), strict=True))
        known = {**state["rates"], **rates}
        return {**state, "rates": known}, {"curriculum_known": len(known), "curriculum_waiting": len(state["waiting"])}

    return PromptPolicy(init=lambda run: {"rates": {}, "waiting": []}, prompts=prompts, observe=observe)
