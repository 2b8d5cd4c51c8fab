"""Costs of an imaginary machine, so simple that a test can add them up by hand."""

from mlx_gptoss.memory.costs import Costs, CostTable

NANO = 1e-9


def line(seconds_per_product: float) -> CostTable:
    """Return a table of products that take the same time each."""
    sizes, rows = (100, 10**7), (1, 8, 64)
    return CostTable(
        {size: [(n, size * n * seconds_per_product) for n in rows] for size in sizes}
    )


def make_costs(*, dequantized: CostTable | None = None, step: float = 1e-3) -> Costs:
    return Costs(
        dense=line(NANO),
        affine8=line(2 * NANO),
        affine4=line(3 * NANO),
        experts=line(4 * NANO),
        dequantized=dequantized,
        dequantize_rows=8,
        dequantize_products=6e6,
        experts_call=1e-4,
        key=1e-7,
        score=5e-8,
        layer=2e-4,
        step=step,
        first=1e-4,
        value=1e-8,
    )
