"""MLX's quantization settings: a default, and overrides by module path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mlx_gptoss.errors import ConfigError

QUANTIZATION_MODES = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
AFFINE = "affine"


@dataclass(frozen=True)
class Quantization:
    """How one weight is packed: `mode` is one of `QUANTIZATION_MODES`.

    Scales of "affine" are floats and have biases; those of other modes are bytes.
    """

    bits: int
    group_size: int
    mode: str

    @property
    def is_affine(self) -> bool:
        return self.mode == AFFINE


MXFP4 = Quantization(bits=4, group_size=32, mode="mxfp4")


def parse_quantization(
    raw: Mapping[str, Any],
) -> tuple[Quantization | None, dict[str, Quantization | None]]:
    """Read MLX's quantization settings from a parsed `config.json`.

    Returns the default and the settings of modules by path (None for an unquantized
    module). Hugging Face's `quantization_config` of MXFP4 experts gives (None, {}):
    there the tensors themselves tell.
    """
    settings = raw.get("quantization", raw.get("quantization_config"))
    if settings is None:
        return None, {}
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"`config.json` has `quantization` = {settings!r}, expected an object"
        )
    settings = cast("Mapping[str, Any]", settings)
    if "quantization" not in raw and "bits" not in settings:
        check_method(settings)
        return None, {}
    modules = {
        path: None if value is False else parse_setting(settings, value, path)
        for path, value in settings.items()
        if isinstance(value, Mapping | bool)
    }
    default = parse_setting({}, settings, "") if "bits" in settings else None
    return default, modules


def check_method(settings: Mapping[str, Any]) -> None:
    method = settings.get("quant_method")
    if method != "mxfp4":
        raise ConfigError(
            f"`config.json` has `quantization_config.quant_method` = {method!r}, "
            "expected `mxfp4`: use the checkpoint this one was quantized from"
        )


def parse_setting(default: Mapping[str, Any], value: Any, path: str) -> Quantization:
    """Read one module's bits, group size and mode; `true` means the default."""
    setting = cast("Mapping[str, Any]", default if value is True else value)
    where = f"quantization.{path}" if path else "quantization"
    mode = setting.get("mode", "affine")
    if not isinstance(mode, str) or mode not in QUANTIZATION_MODES:
        raise ConfigError(
            f"`config.json` has `{where}` in mode {mode!r}, expected one of "
            f"{', '.join(QUANTIZATION_MODES)}: convert it again from the original"
        )
    bits: Any = setting.get("bits")
    group_size: Any = setting.get("group_size")
    all_bits, all_groups = QUANTIZATION_MODES[mode]
    whole = type(bits) is int and type(group_size) is int
    if not whole or bits not in all_bits or group_size not in all_groups:
        raise ConfigError(
            f"`config.json` has `{where}` with bits {bits!r} and group_size "
            f"{group_size!r}, expected bits of {all_bits} and group_size of "
            f"{all_groups} in mode {mode}"
        )
    return Quantization(bits=bits, group_size=group_size, mode=mode)
