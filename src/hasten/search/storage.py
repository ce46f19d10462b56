"""Where a study of recipes is kept: in memory, in an SQLite file, or in a journal that machines can share."""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hasten.core.errors import HastenError

SQLITE, JOURNAL = "study.db", "study.journal"
PATIENCE = 60  # seconds to wait for others that write to the SQLite file
OBJECTIVES = ["drift", "time"]


def opened(folder: Path | None, settings: Mapping[str, Any], resume: bool, shared: bool) -> Any:
    """The Optuna study in a folder, made if there is none.

    folder: where it is kept; None keeps it in memory.
    settings: what a study is made for; one that was made for other settings is refused.
    resume: whether a study that is there is gone on with.
    shared: whether other machines will write to it, as SQLite does not allow on a network folder.

    Raises HastenError for a study that is there and not to be resumed, or was made for something else.
    """
    import optuna

    directions = [optuna.study.StudyDirection.MINIMIZE] * len(OBJECTIVES)
    if folder is None:
        return optuna.create_study(directions=directions)
    if any((folder / name).exists() for name in (SQLITE, JOURNAL)) and not resume:
        raise HastenError(f"out: {folder} already holds a search; go on with it by --resume or name another folder")
    with kept(folder):
        study = optuna.create_study(
            storage=_storage(folder, shared), study_name="tune", directions=directions, load_if_exists=True
        )
        before = study.user_attrs.get("settings", settings)
        for name, value in settings.items():
            if before.get(name) != value:
                raise HastenError(
                    f"{name}: the search in {folder} was made for {before.get(name)}, not {value}; "
                    "repeat that or name another folder"
                )
        study.set_user_attr("settings", dict(settings))
        study.set_metric_names(OBJECTIVES)
        len(study.trials)  # read every page now: what is damaged is to be known before anything runs
    return study


@contextmanager
def kept(folder: Path | None) -> Iterator[None]:
    """Raise HastenError where what keeps the study is damaged, locked, or cannot be written."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, OSError) as error:
        why = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise HastenError(
            f"out: the search kept in {folder} cannot be read or written ({why}); free some room, restore its "
            f"{SQLITE} or {JOURNAL}, or name another folder"
        ) from None


def _storage(folder: Path, shared: bool) -> Any:
    """What is there already, else a journal for machines that share the folder, else SQLite."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if shared and (folder / SQLITE).exists():
        raise HastenError(
            f"cluster: the search in {folder} is kept in SQLite, which machines cannot share; "
            "go on without a cluster or name another folder"
        )
    if shared or (folder / JOURNAL).exists():
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    patient = {"connect_args": {"timeout": PATIENCE}}
    if not (folder / SQLITE).exists():  # whole from the moment that others can see it
        new = folder / f".{SQLITE}.{os.getpid()}"
        RDBStorage(f"sqlite:///{new}", engine_kwargs=patient).engine.dispose()
        os.replace(new, folder / SQLITE)
    return RDBStorage(f"sqlite:///{folder / SQLITE}", engine_kwargs=patient)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's own log, and without its warnings about experimental features."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
