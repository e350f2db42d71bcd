"""What `python -m fastmlp.bench.gpu_check` runs on a machine with a GPU, stage by stage."""
