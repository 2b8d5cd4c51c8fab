"""Names of the files in a checkpoint folder."""

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = "model.safetensors.index.json"  # which shard holds which tensor
WEIGHTS = "*.safetensors"
GGUF = ".gguf"  # the suffix
ORIGINAL = "original"  # the subfolder with OpenAI's own format

ADAPTER_CONFIG = "adapter_config.json"
PEFT_ADAPTER = "adapter_model.safetensors"
MLX_ADAPTER = "adapters.safetensors"
ADAPTERS = (PEFT_ADAPTER, MLX_ADAPTER)
