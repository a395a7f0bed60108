"""How programs are compiled in tests: nearly all the time of the suite is compilation, and hardly any is execution."""

# Unoptimised code of XLA's older emitters, in one piece: half of the time of the newer ones. They round a little
# otherwise, so the golden trajectories are not compiled with them. A jaxlib without one of these flags ends at once and
# names it.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
