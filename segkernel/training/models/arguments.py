"""Options of the model to start from."""

from dataclasses import dataclass, field


@dataclass
class ModelArguments:
    """Model to start from: one by its location, or a new small Llama of these sizes."""

    _argument_group_name = "model"

    model: str | None = field(
        default=None,
        metadata={
            "help": "Model to start from: a directory, also of an adapter, a GGUF file, or a hub name. Without it, a "
            "new small Llama.",
            "metavar": "MODEL",
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer: a directory, a GGUF file, or a hub name; default: the model's, or one trained on the "
            "data.",
            "metavar": "MODEL",
        },
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "dtype of the weights of --model: `float32`, `bfloat16`, `float16`, or `auto`: as saved."},
    )
    vocab_size: int = field(
        default=1024, metadata={"help": "Tokens of a tokenizer trained on the data (byte-level BPE)."}
    )
    hidden_size: int = field(default=128, metadata={"help": "New model: width."})
    intermediate_size: int = field(default=352, metadata={"help": "New model: width of the feed-forward layers."})
    num_hidden_layers: int = field(default=2, metadata={"help": "New model: number of layers."})
    num_attention_heads: int = field(default=4, metadata={"help": "New model: number of attention heads."})
    max_position_embeddings: int = field(default=2048, metadata={"help": "New model: longest sequence, in tokens."})
