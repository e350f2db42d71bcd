"""How fast, and at what cost: workloads, timing, energy and the report behind `fastmlp bench`."""

if __name__ != "fastmlp.bench":
    raise ImportError(
        f"this folder is the package fastmlp.bench, but was imported as {__name__!r}. "
        "Write `import fastmlp.bench` (after `pip install -e .` in a checkout)."
    )
