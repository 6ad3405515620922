"""Directories that the package `datasets` has saved: Arrow files of its own between JSON that is no text."""

from etils import epath

from capscale.errors import UserError


def refuse_saved(directory: epath.Path) -> None:
    """Raises `UserError` for a directory of `save_to_disk`, with how to make one that is read of it."""
    if (directory / "dataset_dict.json").exists():
        raise UserError(
            f"{directory} holds splits that datasets' save_to_disk wrote; "
            f"read one by `capscale data prepare --dataset {directory} --split NAME`"
        )
    if (directory / "state.json").exists() and (directory / "dataset_info.json").exists():
        raise UserError(
            f"{directory} is a data set that datasets' save_to_disk wrote; make a file of it first: "
            f"python -c \"import datasets; datasets.load_from_disk('{directory}').to_parquet('text.parquet')\", "
            "then `capscale data prepare text.parquet`"
        )
