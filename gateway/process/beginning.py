"""What a gateway serves first: its file, or what was applied over that file before the restart."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.clock import wall_time_s
from gateway.config import Config
from gateway.config.dump import to_yaml
from gateway.config.history import Entry, History
from gateway.config.load import LoadedConfig, load_text, override
from gateway.config.problems import ConfigError, KeyPath
from gateway.config.version import Version, digest_of
from gateway.config.watch import read_text

logger = logging.getLogger(__name__)


class Reader:
    """Makes configurations of texts, with what the command line replaces in them.

    file: the gateway's own; None: it has none.
    """

    def __init__(self, file: Path | None, overrides: Mapping[KeyPath, object]) -> None:
        self.file = file
        self._overrides = overrides

    @property
    def name(self) -> str:
        """The file's whole path; empty: there is none."""
        return str(self.file.absolute()) if self.file is not None else ""

    def load(self, text: str, name: str) -> LoadedConfig:
        """Raises ConfigError: it is not usable."""
        found = load_text(text, name)
        return LoadedConfig(override(found.config, self._overrides), found.warnings, None)

    def load_file(self, text: str) -> LoadedConfig:
        """`load` for what is in the gateway's own file."""
        return self.load(text, str(self.file))

    def text(self) -> str:
        """Raises ConfigError: the file cannot be read."""
        assert self.file is not None
        return read_text(self.file)


@dataclass(frozen=True, slots=True)
class Beginning:
    """What serves first. `base`: a hash of the file's text now; `text`: that text."""

    config: Config
    entry: Entry
    history: History
    reader: Reader
    text: str
    base: str

    @classmethod
    def of(cls, config: Config, reader: Reader, folder: Path) -> Beginning:
        """config: what the file, or the command line, comes to.

        What was applied over the file goes on serving after a restart, for as long as the file stays what it was then:
        the last word counts, whoever said it. Blocks.
        """
        history = History(folder, reader.name)
        try:
            text = reader.text() if reader.file is not None else _written(config)
        except ConfigError:
            text = ""  # gone since it was read; the watch tells
        base, newest = hash_of(text), history.newest
        if newest is not None and newest.outlives(reader.name, base):
            try:
                return cls(reader.load(newest.text, newest.name).config, newest, history, reader, text, base)
            except ConfigError as error:
                logger.warning(
                    "%s, which served last, is not usable any more, the file serves:\n%s", newest.name, error
                )
        digest = digest_of(config, history.salt)
        if newest is not None and newest.version.digest == digest:
            return cls(config, msgspec.structs.replace(newest, base=base), history, reader, text, base)
        entry = Entry(
            version=Version(history.next_number(), digest),
            at=wall_time_s(),
            origin="start",
            who="",
            text=text,
            name=str(reader.file or "command line"),
            file=reader.name,
            base=base,
        )
        return cls(config, entry, history, reader, text, base)


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _written(config: Config) -> str:
    """A configuration that was never a text, as one."""
    return to_yaml(config.model_dump(mode="json", exclude_unset=True))
