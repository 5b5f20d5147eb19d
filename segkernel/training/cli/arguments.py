"""Option groups of the command line that are not a method's own: data files and sources of rewards."""

from dataclasses import dataclass, field
from typing import ClassVar

from segkernel import _validate
from segkernel.training.data.containers import check_source

KINDS = "strings or lists of messages"
CONTAINERS = (
    "A JSONL, JSON, CSV or Parquet file, a directory of `Dataset.save_to_disk`, or the name of a data set of the hub; "
    "DIR:SPLIT and OWNER/NAME:SPLIT choose a split."
)


@dataclass
class DataArguments:
    """Data of a run, and the share of it that is held out."""

    _argument_group_name = "data"
    file_option: ClassVar[str]
    text_columns: ClassVar[tuple[str, ...]] = ("prompt",)  # read by the training of a new tokenizer
    split_column: ClassVar[str] = "prompt"  # rows that share its text are held out together

    separator: str = field(
        default="", metadata={"help": "Text between prompt and response, part of the prompt; not used with messages."}
    )
    eval_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Share of the prompts held out for evaluation, with all of their rows; 0 holds out none. They are "
            "chosen by a hash of their text, so every method holds out the same ones."
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of that hash: another one holds out other prompts."})

    @property
    def path(self) -> str:
        """Path or hub name of the data (`check_source`)."""
        return check_source(self.file_option, getattr(self, self.file_option))


@dataclass
class PreferenceArguments(DataArguments):
    """Data set of preference pairs."""

    file_option = "preferences"
    text_columns = ("prompt", "chosen", "rejected")

    preferences: str = field(
        default="",
        metadata={
            "help": f"Rows with `prompt`, `chosen`, `rejected`, {KINDS}; without `prompt`, both answers begin with it. "
            f"{CONTAINERS}",
            "metavar": "DATA",
        },
    )


@dataclass
class PromptArguments(DataArguments):
    """Data set of prompts."""

    file_option = "prompts"

    prompts: str = field(
        default="",
        metadata={
            "help": f"Rows with `prompt` or `question`, {KINDS}, such as a preference file. A prompt that occurs more "
            f"than once is used once. {CONTAINERS}",
            "metavar": "DATA",
        },
    )


@dataclass
class TextArguments(DataArguments):
    """Data set of texts for language modeling."""

    file_option = "texts"
    text_columns = ("prompt", "completion")
    split_column = "completion"

    texts: str = field(
        default="",
        metadata={
            "help": f"Rows with `text`, `messages`, `prompt` and `completion` ({KINDS}), or `question` and `answer`. "
            f"{CONTAINERS}",
            "metavar": "DATA",
        },
    )
    eval_fraction: float = field(
        default=0.05,
        metadata={"help": "Share of the texts held out for evaluation, chosen by a hash of their text; 0: none."},
    )


@dataclass
class RewardArguments:
    """Source of the rewards: exactly one of these."""

    _argument_group_name = "rewards"

    reward_model: str | None = field(
        default=None,
        metadata={
            "help": "Reward model made with `segkernel train reward` (for segment-ppo and token-ppo: with `segkernel "
            "train segment-reward`).",
            "metavar": "DIR",
        },
    )
    reward_policy: str | None = field(
        default=None,
        metadata={
            "help": "Policy made with `segkernel train dpo`, for the reward that it implies with --model as its "
            "reference.",
            "metavar": "DIR",
        },
    )
    reward_policy_beta: float = field(default=0.1, metadata={"help": "The beta that --reward_policy was trained with."})
    check_calculations: bool = field(
        default=False,
        metadata={
            "help": "+1 for every right calculation that a response annotates as in `<<48/2=24>>`, -1 for every wrong "
            "one."
        },
    )

    def __post_init__(self) -> None:
        _validate.positive("reward_policy_beta", self.reward_policy_beta)

    def given(self) -> list[str]:
        """Every source that was passed, as the record of the run names it."""
        model = [self.reward_model] if self.reward_model else []
        policy = [f"policy {self.reward_policy}"] if self.reward_policy else []
        return [*model, *policy, *(["calculations"] if self.check_calculations else [])]

    def source(self) -> str:
        """The one source, as the record of the run names it.

        Raises:
            ValueError: there is none, or there are several.
        """
        given = self.given()
        if not given:
            raise ValueError(
                "reward_model: expected a directory (or --reward_policy DIR, or --check_calculations), got none"
            )
        if len(given) > 1:
            raise ValueError(f"reward_model: expected one source of rewards, got {' and '.join(given)}")
        return given[0]
