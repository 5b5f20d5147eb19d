"""Row schema: name, type and meaning of every column of the data sets.

Rows are `datasets.Dataset`s in memory from the reader to the collator. A list column holds one value per token; a null
stands for a value that this row does not have.
"""

from collections.abc import Collection

from datasets import Features, List, Value

SIDES = ("chosen", "rejected")
SEQUENCE_SIGNS = (1, -1)  # of SIDES: segments of this sign are trained on

_STRING, _INTEGER, _FLOAT = Value("string"), Value("int64"), Value("float64")
_TOKEN_IDS = List(Value("int32"))

# Values per response token. Responses have columns of these names, pairs have `chosen_<name>` and `rejected_<name>`.
PER_TOKEN = {
    "mask": List(Value("bool")),  # loss mask; null: the loss reads every token of the response
    "token_rewards": List(_FLOAT),  # float64, so that rewards in a data file stay as they are
    "token_weights": List(Value("float32")),  # weight of the token's log-ratio in the loss
    "ref_token_logprobs": List(Value("float32")),  # log-probability under a reference model
    "segment_ids": List(Value("int32")),  # 0-based segment of the token
    "segment_rewards": List(Value("float32")),  # one value per segment of the response
}

# --- as read from a file ---------------------------------------------------------------------------------------------

# Columns of every kind of text.
_SOURCE = {
    "chat_template_arguments": _STRING,  # JSON; the texts are then messages as JSON. null: the texts are strings
    "line": _INTEGER,  # 1-based line of a text file that the row was read from
    "record": _INTEGER,  # 1-based row of another container
    "source_index": _INTEGER,  # 0-based row of a data set or list in memory
}
PROMPT_TEXTS = Features({"prompt": _STRING, **_SOURCE})
COMPLETION_TEXTS = Features({"prompt": _STRING, "completion": _STRING, **_SOURCE})
PAIR_TEXTS = Features({"prompt": _STRING, "chosen": _STRING, "rejected": _STRING, **_SOURCE})

# --- encoded ---------------------------------------------------------------------------------------------------------

# Packed block of a language model's training text.
BLOCKS = Features({"input_ids": _TOKEN_IDS})

PROMPTS = Features({"prompt_ids": _TOKEN_IDS})

# Sampled response.
RESPONSES = Features(
    {
        "prompt_ids": _TOKEN_IDS,
        "response_ids": _TOKEN_IDS,
        "prompt_index": _INTEGER,  # row of its prompt in the data set of prompts
        "reward": _FLOAT,  # of the whole response; NaN where a score is not finite
        "samples_reward": _FLOAT,  # mean reward of all samples of the same prompt
        "segments": _INTEGER,  # number of segments
        "baseline": _FLOAT,  # neutral token reward, in the cut into segments
        "mask_agreement": Value("float32"),  # share of tokens whose `mask` agrees with their true credit
        **PER_TOKEN,
    }
)

# Preference pair. Lists without "per token" in their comment hold two values: of the chosen and the rejected response.
PAIRS = Features(
    {
        "prompt_ids": _TOKEN_IDS,
        "chosen_ids": _TOKEN_IDS,  # per token
        "rejected_ids": _TOKEN_IDS,  # per token
        "ref_logprobs": List(Value("float32")),  # reference log-probabilities, summed over `mask`
        "ref_response_logprobs": List(Value("float32")),  # the same, summed over the whole response
        "segments": List(_INTEGER),  # number of segments
        "baseline": List(_FLOAT),  # neutral token reward, in the cut into segments
        "mask_agreement": List(Value("float32")),  # share of tokens whose `mask` agrees with their true credit
        "row": _INTEGER,  # number of the pair, part of the key of its random numbers
        **{f"{side}_{name}": feature for name, feature in PER_TOKEN.items() for side in SIDES},
    }
)


def subset(schema: Features, names: Collection[str]) -> Features:
    """Features of these columns, in the order of `schema`."""
    return Features({name: feature for name, feature in schema.items() if name in names})
