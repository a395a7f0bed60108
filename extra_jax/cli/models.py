"""Verbs that convert models: ``import-hf``, ``export-hf``."""

from extra_jax.cli.verb import Verb, call, out_argument

VERBS = (
    Verb(
        "import-hf",
        "turn a Hugging Face model folder (model.path) into step 0 of run.dir",
        "Checks every tensor by name, shape and dtype while it streams. Training does this by itself; use it to\n"
        "check a download, or to convert once for a run that many hosts start.",
        "extra-jax import-hf configs/qwen3_1_7b_grpo.yaml model.path=models/Qwen3-1.7B",
        lambda config, args: call("export", "import_hf", config),
    ),
    Verb(
        "export-hf",
        "write the last checkpoint in run.dir as a Hugging Face model folder",
        "The folder loads with transformers.AutoModelForCausalLM; it appears only when it is complete.",
        "extra-jax export-hf configs/quickstart.yaml run.dir=runs/first --out exported",
        lambda config, args: call("export", "export_hf", config, args.out),
        out_argument,
    ),
)
