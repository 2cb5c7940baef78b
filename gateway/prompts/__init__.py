"""What routing knows of a prompt before it is sent: its length, and keys for its prefix."""

from gateway.prompts.facts import PromptFacts
from gateway.prompts.keys import chain, first_seed
from gateway.prompts.lengths import Lengths
from gateway.prompts.reader import PromptReader
from gateway.prompts.thread import PromptThread
from gateway.prompts.variants import open_reader

__all__ = ["Lengths", "PromptFacts", "PromptReader", "PromptThread", "chain", "first_seed", "open_reader"]
