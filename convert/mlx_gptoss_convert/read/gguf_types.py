"""ggml's tensor types as data: the number, values and bytes of a block of each.

Numbers and names are those of `enum ggml_type` in llama.cpp's ggml.h, sizes those of
the structs in its ggml-common.h; the `gguf` package has both, as
`GGMLQuantizationType` and `GGML_QUANT_SIZES` (`tests/convert/test_gguf_types.py`
compares). Ollama's own MXFP4 is in its fs/ggml/type.go and ml/backend/ggml/ggml.go.

To read another type, move it from `UNREADABLE_TYPES` to `TYPES`, and give it a decoder
in `gguf_decoders.DECODERS`.
"""

from dataclasses import dataclass

from mlx_gptoss.format.layout import VALUES_PER_BLOCK

SUPERBLOCK = 256  # values in a block of the K-quants


@dataclass(frozen=True)
class GgmlType:
    """How ggml stores values: `nbytes` bytes for each block of `block` values."""

    name: str
    number: int
    block: int
    nbytes: int


def short_type(name: str, number: int, nbytes: int) -> GgmlType:
    return GgmlType(name, number, VALUES_PER_BLOCK, nbytes)


def k_type(name: str, number: int, nbytes: int) -> GgmlType:
    return GgmlType(name, number, SUPERBLOCK, nbytes)


F32 = GgmlType("F32", 0, 1, 4)
F16 = GgmlType("F16", 1, 1, 2)
BF16 = GgmlType("BF16", 30, 1, 2)
MXFP4 = short_type("MXFP4", 39, 17)
# The blocks of OpenAI's files after their scale byte, as Ollama's converter wrote them
# until llama.cpp had a type of its own; 4 was llama.cpp's Q4_2, older than GGUF.
OLLAMA_MXFP4 = short_type("MXFP4 of Ollama", 4, 17)
Q8_0 = short_type("Q8_0", 8, 34)
NVFP4 = GgmlType("NVFP4", 40, 64, 36)
TYPES = (
    F32,
    F16,
    BF16,
    MXFP4,
    OLLAMA_MXFP4,
    short_type("Q4_0", 2, 18),
    short_type("Q4_1", 3, 20),
    short_type("Q5_0", 6, 22),
    short_type("Q5_1", 7, 24),
    Q8_0,
    short_type("IQ4_NL", 20, 18),
    k_type("Q2_K", 10, 84),
    k_type("Q3_K", 11, 110),
    k_type("Q4_K", 12, 144),
    k_type("Q5_K", 13, 176),
    k_type("Q6_K", 14, 210),
    k_type("IQ4_XS", 23, 136),
    NVFP4,
)
READABLE_TYPES = {entry.number: entry for entry in TYPES}
UNREADABLE_TYPES = {
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    41: "Q1_0",
}
