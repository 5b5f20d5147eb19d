"""Arrow operations on in-memory data sets: conversion of rows, flat list columns, new columns, maps without a cache."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from segkernel.training.data.columns import SIDES, subset
from segkernel.training.progress import shows_bars

Rows: TypeAlias = Dataset | Iterable[Mapping[str, Any]]
Array: TypeAlias = npt.NDArray[Any]


class FlatLists(NamedTuple):
    """Lists without padding: their values one after another `[N]`, and their lengths `[rows]`."""

    values: Array
    lengths: Array

    @property
    def offsets(self) -> Array:
        """Start of every list in `values`, and the end of the last: `[rows + 1]` int64, as in `cu_seqlens`."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def to_arrow(self) -> pa.ListArray:
        """Arrow list array of the same lists."""
        return pa.ListArray.from_arrays(self.offsets.astype(np.int32), pa.array(self.values))


def to_dataset(rows: Rows, schema: Features, name: str = "rows") -> Dataset:
    """Columns of `schema` that `rows` have, as a data set in memory.

    Args:
        rows: a `Dataset`, or mappings; a key that a mapping lacks is null in its row.
        schema: features by column name; other columns are left out.
        name: name of the rows in messages.

    Raises:
        ValueError: a value that does not fit the type of its column.
    """
    if isinstance(rows, Dataset):
        table = to_table(rows)
        names = [column for column in schema if column in table.column_names]
        try:
            return Dataset.from_dict({column: table[column] for column in names}, features=subset(schema, names))
        except (pa.ArrowException, TypeError, ValueError) as error:
            types = {column: (schema.arrow_schema.field(column).type, table[column].type) for column in names}
            wrong = "; ".join(
                f"{column}: expected {want}, got {got}" for column, (want, got) in types.items() if want != got
            )
            raise ValueError(f"{name}: {wrong or error}") from error
    rows = list(rows)
    names = [column for column in schema if any(column in row for row in rows)]
    types = {column: schema.arrow_schema.field(column).type for column in names}
    arrays = {column: _to_array([row.get(column) for row in rows], types[column], name, column) for column in names}
    return Dataset.from_dict(arrays, features=subset(schema, names))


def to_table(dataset: Dataset) -> pa.Table:
    """Arrow table of a data set: its rows in their order."""
    if not dataset.column_names:
        return pa.table({})
    return dataset.with_format("arrow")[:]


def head(dataset: Dataset, count: int) -> Dataset:
    """First `count` rows, or all of them if there are fewer."""
    return dataset.select(range(min(count, len(dataset))))


def with_columns(dataset: Dataset, columns: Mapping[str, Any], schema: Features) -> Dataset:
    """Data set with these columns added or replaced: Arrow arrays or NumPy arrays, one entry per row."""
    table = to_table(dataset)
    arrays = {name: table[name] for name in table.column_names}
    arrays |= {name: pa.array(values) if isinstance(values, np.ndarray) else values for name, values in columns.items()}
    return Dataset.from_dict({name: arrays[name] for name in schema if name in arrays}, subset(schema, list(arrays)))


def map_in_memory(
    dataset: Dataset,
    function: Callable[[dict[str, list[Any]], list[int]], dict[str, list[Any]]],
    features: Features,
    *,
    description: str,
    progress: bool = False,
) -> Dataset:
    """`Dataset.map` of `function(columns, indices)` over batches of rows; nothing is cached or hashed."""
    with _progress_bars(progress):
        return dataset.map(
            function,
            batched=True,
            with_indices=True,
            remove_columns=dataset.column_names,
            features=features,
            keep_in_memory=True,
            load_from_cache_file=False,
            new_fingerprint="in-memory",
            desc=description,
        )


def list_lengths(dataset: Dataset, name: str) -> Array:
    """Length of every list of a column: `[rows]` int64, 0 for a null."""
    lengths = pc.list_value_length(to_table(dataset.select_columns(name))[name])
    counts: Array = pc.fill_null(lengths, 0).to_numpy().astype(np.int64)
    return counts


def flat_lists(dataset: Dataset, name: str) -> FlatLists:
    """Values of a list column, row after row."""
    return _flatten(to_table(dataset.select_columns(name))[name])


def flat_sides(dataset: Dataset, name: str) -> FlatLists:
    """Values of `chosen_<name>` and `rejected_<name>`: the lists of pair 0, then those of pair 1, ..."""
    names = [f"{side}_{name}" for side in SIDES]
    table = to_table(dataset.select_columns(names))
    chunks = [chunk for column in names for chunk in table[column].chunks]
    order = np.arange(2 * len(dataset)).reshape(2, -1).T.ravel()
    return _flatten(pa.chunked_array(chunks).take(pa.array(order)))


def columns_of_sides(name: str, lists: FlatLists) -> dict[str, pa.ListArray]:
    """Columns `chosen_<name>` and `rejected_<name>` of lists in the order of `flat_sides`."""
    both = lists.to_arrow()
    rows = np.arange(0, len(both), 2)
    return {f"{side}_{name}": both.take(pa.array(rows + index)) for index, side in enumerate(SIDES)}


def _flatten(column: pa.ChunkedArray) -> FlatLists:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return FlatLists(pc.list_flatten(column).to_numpy(), lengths.astype(np.int64))


def _to_array(values: Sequence[Any], type_: pa.DataType, name: str, column: str) -> pa.Array:
    try:
        return pa.array([_plain(value, type_) for value in values], type=type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    for index, value in enumerate(values):
        try:
            pa.array([_plain(value, type_)], type=type_)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{name}[{index}]: {column}: expected {type_}, got {value!s:.60}") from error
    raise ValueError(f"{name}: {column}: expected {type_} in every row")


def _plain(value: Any, type_: pa.DataType) -> Any:
    if value is None or not pa.types.is_list(type_):
        return value
    values = value.tolist() if hasattr(value, "tolist") else list(value)
    return [bool(item) for item in values] if pa.types.is_boolean(type_.value_type) else values


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """Hide the bars of `datasets` unless they are to be shown, which takes a terminal."""
    hide = not (shown and shows_bars(False)) and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def rewards_of(samples: Dataset) -> Array:
    """Column `reward`, `[samples]` float64."""
    rewards: Array = to_table(samples)["reward"].to_numpy()
    return rewards
